from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking.team_draft import Team, team_draft


class Coin(Random):
    """Tosses of a given sequence: True lets "a" draft first."""

    def __init__(self, tosses: Sequence[bool]) -> None:
        super().__init__(0)
        self.tosses = [*tosses]

    def random(self) -> float:
        return 0.0 if self.tosses.pop(0) else 0.9


def drafted(a: str, b: str, tosses: Sequence[bool], top_k: int = 10) -> list[tuple[str, Team | None]]:
    return [(hit.id, hit.team) for hit in team_draft([*a], [*b], top_k=top_k, random=Coin(tosses))]


def test_rounds_by_hand() -> None:
    # Round 1: a drafts x, b drafts y. Round 2: b drafts w, its best that is not taken, then a drafts z.
    assert drafted("xyz", "yxw", [True, False]) == [("x", "a"), ("y", "b"), ("w", "b"), ("z", "a")]
    assert drafted("xyz", "yxw", [True, False], top_k=3) == [("x", "a"), ("y", "b"), ("w", "b")]


def test_hit_that_both_rank_next_has_no_team() -> None:
    assert drafted("cx", "cy", [False]) == [("c", None), ("y", "b"), ("x", "a")]
    assert drafted("abc", "abc", []) == [("a", None), ("b", None), ("c", None)]


def test_rest_of_the_longer_ranking_has_no_team() -> None:
    # The round that began is finished: a is exhausted after x, and b still drafts y.
    assert drafted("x", "yzw", [True]) == [("x", "a"), ("y", "b"), ("z", None), ("w", None)]
    assert drafted("", "yz", []) == [("y", None), ("z", None)]
    assert drafted("", "", []) == []


RANKINGS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=7)


@given(RANKINGS, RANKINGS, st.integers(1, 9), st.integers(0, 9))
def test_properties(a: list[str], b: list[str], top_k: int, seed: int) -> None:
    hits = team_draft(a, b, top_k=top_k, random=Random(seed))
    ids = [hit.id for hit in hits]
    assert len(set(ids)) == len(ids) == min(top_k, len({*a, *b}))
    assert all(hit.id in {"a": a, "b": b}[hit.team] for hit in hits if hit.team)
    sizes = [sum(hit.team == team for hit in hits) for team in ("a", "b")]
    assert abs(sizes[0] - sizes[1]) <= (1 if len(hits) == top_k else 0)


@given(RANKINGS, RANKINGS, st.integers(1, 6))
def test_use_by_position_favours_neither(a: list[str], b: list[str], top_k: int) -> None:
    """Whatever the weight of a rank, both teams have the same total over all tosses: random use has no winner."""
    at_rank = {team: [0] * top_k for team in ("a", "b")}
    for tosses in itertools.product([True, False], repeat=4):
        for rank, hit in enumerate(team_draft(a, b, top_k=top_k, random=Coin(tosses))):
            if hit.team:
                at_rank[hit.team][rank] += 1
    assert at_rank["a"] == at_rank["b"]
