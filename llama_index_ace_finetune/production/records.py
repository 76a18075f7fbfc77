"""RetrievalRecord and FeedbackRecord: what a query log holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llama_index_ace_finetune.errors import AceFinetuneError, quoted

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

FeedbackKind = Literal["judgement", "use"]
"""Kinds of feedback.

- judgement: somebody said whether the memory is relevant.
- use: the memory was used, such as clicked or cited; weak evidence, since what is ranked first is seen most.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedHit:
    """One result of a logged query; None for a leg that did not find it.

    Attributes:
        node_id: of the memory.
        rank: in the results, from 1.
        score: as served.
        dense_rank: in the dense leg, from 1.
        dense_score: cosine.
        sparse_rank: in the BM25 leg, from 1.
        sparse_score: BM25 score.
        team: opaque id of the system that contributed it, in a comparison of two.
    """

    node_id: str
    rank: int
    score: float | None = None
    dense_rank: int | None = None
    dense_score: float | None = None
    sparse_rank: int | None = None
    sparse_score: float | None = None
    team: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRecord:
    """One served query.

    Attributes:
        query_id: unique id, which the results carry too.
        time: seconds since 1970 (UTC), by the clock of the machine, which may have been set back between two records.
        query: text, as the redaction left it.
        hits: results, best first.
        seconds: that the search took.
        served_by: see `ServedBy`; None if there are no results, or if another retriever served.
        fingerprint: of the model whose vectors were searched.
        run: folder of the run that was served.
        mode: "hybrid", "dense" or "sparse".
        team: opaque id of the system that served all results, in a comparison of two.
        user: opaque id of the user, if the application gives one.
        extra: further JSON values.
    """

    query_id: str
    time: float
    query: str
    hits: tuple[LoggedHit, ...]
    seconds: float
    served_by: str | None = None
    fingerprint: str | None = None
    run: str | None = None
    mode: str | None = None
    team: str | None = None
    user: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    """Feedback on one memory for one served query.

    Attributes:
        query_id: of the served query.
        node_id: of the memory; it need not be among the results.
        value: in [-1, 1], not 0; above 0 the memory is relevant, below 0 it is not.
        kind: see `FeedbackKind`.
        source: who says so, such as "user", "citation" or "import". A source has one opinion of a query and a memory:
            a later value replaces the earlier one.
        reason: free text.
        time: seconds since 1970 (UTC).

    Raises AceFinetuneError for a value out of range or an unknown kind.
    """

    query_id: str
    node_id: str
    value: float
    kind: FeedbackKind = "judgement"
    source: str = "user"
    reason: str | None = None
    time: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", feedback_value(self.value))
        for name in ("query_id", "node_id", "source"):
            given: object = getattr(self, name)
            if not isinstance(given, str) or not given:
                raise AceFinetuneError(f"The {name} of feedback is {quoted(given)}; give a string that is not empty.")
        if self.kind not in ("judgement", "use"):
            raise AceFinetuneError(f"The kind of feedback is {quoted(self.kind)}; it must be judgement or use.")
        if self.kind == "use" and self.value < 0:
            raise AceFinetuneError(f"A use has the value {self.value:g}; give a value above 0, or kind judgement.")


def feedback_value(value: object) -> float:
    """Return a value of feedback as a number: True is 1, False is -1.

    Raises:
        AceFinetuneError: unless it is in [-1, 1] and not 0.
    """
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if not isinstance(value, int | float) or not math.isfinite(value) or not -1 <= value <= 1 or not value:
        raise AceFinetuneError(
            f"The feedback value is {quoted(value)}; give a number from -1 (not relevant) to 1 (relevant), not 0."
        )
    return float(value)


def logged_hits(results: Sequence[NodeWithScore]) -> tuple[LoggedHit, ...]:
    """Return the results of any retriever as hits; leg ranks and teams are kept where the results have them."""
    return tuple(
        LoggedHit(
            node_id=result.node.node_id,
            rank=rank,
            score=None if result.score is None else float(result.score),
            dense_rank=getattr(result, "dense_rank", None),
            dense_score=getattr(result, "dense_score", None),
            sparse_rank=getattr(result, "sparse_rank", None),
            sparse_score=getattr(result, "sparse_score", None),
            team=getattr(result, "team", None),
        )
        for rank, result in enumerate(results, start=1)
    )
