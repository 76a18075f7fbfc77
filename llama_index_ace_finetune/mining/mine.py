"""From candidates to hard negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import CandidateSource


@dataclass(frozen=True, slots=True)
class MinedNegative:
    """A corpus row taken as a negative, with the source, score and rank (from 1) that found it."""

    row: int
    source: str
    score: float
    rank: int


@dataclass(frozen=True)
class MinedNegatives:
    """The negatives of each query, and what each filter took away."""

    negatives: tuple[tuple[MinedNegative, ...], ...]
    candidates: int
    filtered: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Number of negatives over all queries."""
        return sum(map(len, self.negatives))

    @property
    def distinct(self) -> int:
        """Number of different corpus rows among them."""
        return len({negative.row for row in self.negatives for negative in row})


def mine_negatives(
    *,
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    relevant: Sequence[NDArray[np.int64]],
    sources: Sequence[CandidateSource],
    count: int,
    settings: MiningSettings,
    judged_wrong: Sequence[NDArray[np.int64]] | None = None,
    excluded: NDArray[np.bool_] | None = None,
) -> MinedNegatives:
    """Choose up to `count` negatives per query from what the sources rank high.

    Candidates are taken by their best rank over the sources (judged-wrong rows first), and dropped when they are a
    known right answer, a near-duplicate of one, in `excluded`, or above the margin. A query keeps fewer than `count`
    when its candidates run out; nothing that was filtered comes back, and nothing is padded.

    Args:
        query_vectors: unit rows [n, d].
        corpus_vectors: unit rows [m, d].
        relevant: corpus rows that are right for each query.
        sources: rankings to draw from.
        count: negatives wanted per query.
        settings: margins and depth.
        judged_wrong: corpus rows that somebody judged wrong for each query.
        excluded: bool [m], rows that must not be used for anybody (right answers of held-out queries).
    """
    queries = np.arange(len(query_vectors))
    # Known answers and duplicates take places at the top, so look a little deeper than what is wanted.
    depth = min(len(corpus_vectors), max(settings.top_k, count) + max((len(rows) for rows in relevant), default=0))
    rankings = [(source.name, *source.search(queries, depth)) for source in sources]
    filtered: Counter[str] = Counter()
    candidates = 0
    result = []
    for query in range(len(query_vectors)):
        right = relevant[query]
        wrong = judged_wrong[query] if judged_wrong is not None else np.empty(0, np.int64)
        ranked = _by_best_rank(wrong, [(name, rows[query], scores[query]) for name, rows, scores in rankings])
        candidates += len(ranked)
        rows = np.array([candidate.row for candidate in ranked], np.int64)
        cosines = corpus_vectors[rows] @ query_vectors[query]
        reason = _reasons(rows, cosines, query_vectors[query], corpus_vectors, right, excluded, settings)
        # A judgement beats a guess: rows that somebody judged wrong pass the margin and the duplicate test.
        judged = np.isin(rows, wrong) & (reason != "right answer") & (reason != "held-out answer")
        reason[judged] = ""
        filtered.update(str(name) for name in reason if name)
        kept = [candidate for candidate, name in zip(ranked, reason, strict=True) if not name]
        result.append(tuple(kept[:count]))
    return MinedNegatives(negatives=tuple(result), candidates=candidates, filtered=dict(filtered))


def _by_best_rank(
    wrong: NDArray[np.int64], rankings: Sequence[tuple[str, NDArray[np.int32], NDArray[np.float32]]]
) -> list[MinedNegative]:
    """Interleave the rankings: by rank, then by the order of the sources; a row counts once."""
    best: dict[int, MinedNegative] = {
        int(row): MinedNegative(row=int(row), source="judged", score=0.0, rank=0) for row in wrong
    }
    for name, rows, scores in rankings:
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1):
            if row >= 0 and (row not in best or rank < best[row].rank):
                best[row] = MinedNegative(row=row, source=name, score=score, rank=rank)
    order = {name: place for place, (name, _, _) in enumerate(rankings)}
    return sorted(best.values(), key=lambda candidate: (candidate.rank, order.get(candidate.source, -1), candidate.row))


def _reasons(
    rows: NDArray[np.int64],
    cosines: NDArray[np.float32],
    query_vector: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    right: NDArray[np.int64],
    excluded: NDArray[np.bool_] | None,
    settings: MiningSettings,
) -> NDArray[np.str_]:
    """Name the first filter that takes each candidate; an empty string where none does."""
    reason = np.full(len(rows), "", dtype="U24")
    if not len(rows):
        return reason
    if len(right) and settings.relative_margin is not None:
        positive = float(np.min(corpus_vectors[right] @ query_vector))
        # |positive| keeps the margin below the positive for negative cosines too.
        limit = positive - abs(positive) * (1 - settings.relative_margin)
        reason[cosines > limit] = "above the margin"
    if len(right):
        near = (corpus_vectors[rows] @ corpus_vectors[right].T).max(axis=1) >= settings.near_duplicate
        reason[near] = "near-duplicate"
    if excluded is not None:
        reason[excluded[rows]] = "held-out answer"
    reason[np.isin(rows, right)] = "right answer"
    return reason
