"""Team-draft interleaving: one ranking from two, in which each hit belongs to the ranking that drafted it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from random import Random
from typing import Generic, Literal, NamedTuple, TypeVar

Team = Literal["a", "b"]
_Id = TypeVar("_Id", bound=Hashable)


class Drafted(NamedTuple, Generic[_Id]):
    """A hit, and the ranking that drafted it; None if both would have, or if only one was left."""

    id: _Id
    team: Team | None


def team_draft(a: Sequence[_Id], b: Sequence[_Id], *, top_k: int, random: Random) -> list[Drafted[_Id]]:
    """Return up to `top_k` hits of two rankings, drafted in turns.

    In each round a coin decides which ranking drafts first, and each drafts its best hit that is not taken (Radlinski,
    Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008). Two kinds of hits get no
    team, since their use says nothing about the rankings: a hit that both rank next at the start of a round, and the
    hits that follow when one ranking is exhausted, which would favour the longer one.

    Args:
        a: distinct ids, best first.
        b: distinct ids, best first.
        top_k: largest number of hits.
        random: the coin.
    """
    taken: dict[_Id, Team | None] = {}
    rest: dict[Team, list[_Id]] = {"a": [*reversed(a)], "b": [*reversed(b)]}
    turns: list[Team] = []  # of this round, the next one last
    while len(taken) < top_k:
        for ranking in rest.values():
            while ranking and ranking[-1] in taken:
                ranking.pop()
        if not turns:  # a round starts
            if not rest["a"] or not rest["b"]:
                break
            if rest["a"][-1] == rest["b"][-1]:
                taken[rest["a"][-1]] = None
                continue
            turns = ["b", "a"] if random.random() < 0.5 else ["a", "b"]
        team = turns.pop()
        taken[rest[team][-1]] = team
    tail = [item for item in [*reversed(rest["a"]), *reversed(rest["b"])] if item not in taken]
    return [Drafted(*one) for one in (*taken.items(), *((item, None) for item in tail))][:top_k]
