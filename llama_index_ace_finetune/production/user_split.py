"""UserSplit: a plain A/B comparison, in which each user always gets the same retriever."""

from __future__ import annotations

import hashlib
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.production.comparison import Comparison, require_retriever
from llama_index_ace_finetune.production.timed_retriever import TimedRetriever
from llama_index_ace_finetune.ranking.team_draft import Team
from llama_index_ace_finetune.retrievers.search_event import SearchLog


def user_key(user_id: str, *, salt: str) -> int:
    """Return a number in [0, 2^64) that is always the same for a user and a salt, and evenly spread over users."""
    if not isinstance(user_id, str) or not user_id:
        raise AceFinetuneError(f"The user id is {quoted(user_id)}; give a text that is not empty.")
    digest = hashlib.blake2b(f"{salt}\0{user_id}".encode(errors="replace"), digest_size=8, person=b"ace-split")
    return int.from_bytes(digest.digest(), "big")


def assign_user(user_id: str, *, salt: str, fraction: float = 0.5) -> Team:
    """Return "b" for about this fraction of the users, else "a"; another salt makes comparisons independent.

    Raises:
        AceFinetuneError: for an empty user id, or a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise AceFinetuneError(f"The fraction of users for B is {fraction}; it must be between 0 and 1.")
    return "b" if user_key(user_id, salt=salt) < fraction * 2**64 else "a"


class UserSplit:
    """Serves each user with A or with B, by a stable hash of the user id and the comparison's name.

    An interleaved comparison needs far fewer queries; split users where results of both must not be mixed. The log has
    a hash of the user id, not the id.

    Args:
        a: the retriever that serves today.
        b: the candidate.
        name: of the comparison, and the salt of the hash.
        fraction: of the users who get B.
        query_log: a `QueryLog`; give it to the split and not to `a` and `b`.

    Raises:
        AceFinetuneError: for an invalid option.
    """

    def __init__(
        self,
        a: BaseRetriever,
        b: BaseRetriever,
        *,
        name: str = "comparison",
        fraction: float = 0.5,
        query_log: SearchLog | None = None,
    ) -> None:
        require_retriever(a, "A")
        require_retriever(b, "B")
        assign_user("anyone", salt=name, fraction=fraction)  # raises for an invalid fraction
        self._systems: dict[Team, BaseRetriever] = {"a": a, "b": b}
        self.fraction = fraction
        self.comparison = Comparison(name, "split", query_log)

    def for_user(self, user_id: str, **options: Any) -> BaseRetriever:
        """Return the retriever of a user; `options` are those of LlamaIndex's `BaseRetriever`."""
        name = self.comparison.name
        team = assign_user(user_id, salt=name, fraction=self.fraction)
        user = f"{user_key(user_id, salt=f'log {name}'):016x}"
        return _UsersRetriever(self._systems[team], team, user, self.comparison, self.fraction, options)


class _UsersRetriever(TimedRetriever):
    """Searches with one system, and logs which."""

    def __init__(
        self,
        system: BaseRetriever,
        team: Team,
        user: str,
        comparison: Comparison,
        fraction: float,
        options: dict[str, Any],
    ) -> None:
        self._team, self._user = team, user
        self._comparison, self._fraction = comparison, fraction
        super().__init__(system, **options)

    def _serve(self, query: QueryBundle, results: list[NodeWithScore], seconds: float) -> list[NodeWithScore]:
        return self._comparison.serve(
            query,
            [(result, self._team) for result in results],
            query_id=self._comparison.new_query_id(),
            seconds=seconds,
            served=self._team,
            user=self._user,
            fraction=self._fraction,
        )
