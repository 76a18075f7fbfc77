"""Results of a mining run: negatives, as arrays and as objects, and counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.apply_filters import FilterResult
from llama_index_ace_finetune.mining.candidates import NOT_FOUND, Candidates
from llama_index_ace_finetune.mining.filters import KNOWN_POSITIVE, UNKNOWN_ID
from llama_index_ace_finetune.mining.histograms import ScoreHistograms, score_histograms
from llama_index_ace_finetune.mining.sampling import Selection


@dataclass(frozen=True, slots=True)
class SourceHit:
    """Rank (from 1; 0 for a judged negative) and score from one source; the score is None if the source gave none."""

    source: str
    rank: int
    score: float | None


@dataclass(frozen=True, slots=True)
class MinedNegative:
    """A corpus row selected as a negative.

    `source`, `rank` and `score` are from the source it was selected from, `hits` from all sources that returned it;
    `similarity` is the score that the margins used: its cosine with the query, or the teacher score.
    """

    row: int
    source: str
    score: float | None
    rank: int
    similarity: float
    hits: tuple[SourceHit, ...]


@dataclass(frozen=True, slots=True)
class MarginBackoffStep:
    """One step of the margin back-off: its margin, the queries with too few negatives, and the negatives it added."""

    relative_margin: float | None
    queries: int
    negatives: int


@dataclass(frozen=True)
class MinedNegatives:
    """Negatives of n queries, at most `count` each, from s sources, and counts of the other candidates.

    Attributes:
        sources: names; the first is `JUDGED`.
        rows: corpus rows int32 [n, count], in the order of selection, padded with -1.
        source_index: index into `sources`, int64 [n, count], padded with -1.
        ranks: int32 [s, n, count], `NOT_FOUND` if a source did not return the row.
        scores: float32 [s, n, count], NaN without a score.
        similarities: scores that the margins used, float32 [n, count].
        candidates: number of distinct (query, row) pairs, plus hits that are not in the corpus.
        candidates_per_source: pairs per source; a pair found by several sources counts for each.
        filtered: rejected candidates per filter, without filters that rejected none.
        active: names of the applied filters, in order.
        backoff_steps: steps of the margin back-off.
        histograms: scores of positives, negatives and rejected candidates.
    """

    sources: tuple[str, ...]
    rows: NDArray[np.int32]
    source_index: NDArray[np.int64]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]
    similarities: NDArray[np.float32]
    candidates: int
    candidates_per_source: dict[str, int]
    filtered: dict[str, int]
    active: tuple[str, ...]
    backoff_steps: tuple[MarginBackoffStep, ...]
    histograms: ScoreHistograms

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        filter_result: FilterResult,
        selected: Selection,
        backoff_steps: tuple[MarginBackoffStep, ...],
    ) -> MinedNegatives:
        """Collect the selected candidates and count the others."""
        columns, source_index = selected
        query, place = np.nonzero(columns >= 0)
        column = columns[query, place]
        shape = (len(candidates.sources), *columns.shape)
        rows = np.full(columns.shape, -1, np.int32)
        ranks = np.full(shape, NOT_FOUND, np.int32)
        scores = np.full(shape, np.nan, np.float32)
        similarities = np.full(columns.shape, np.nan, np.float32)
        rows[query, place] = candidates.rows[query, column]
        ranks[:, query, place] = candidates.ranks[:, query, column]
        scores[:, query, place] = candidates.scores[:, query, column]
        similarities[query, place] = filter_result.scores[query, column]

        rejected = {name: mask for name in filter_result.active if (mask := filter_result.rejected_by(name)).any()}
        unknown = int(candidates.unknown.sum())
        filtered = {UNKNOWN_ID: unknown} if unknown else {}
        found = (candidates.ranks != NOT_FOUND).sum(axis=(1, 2))
        return cls(
            sources=candidates.sources,
            rows=rows,
            source_index=source_index,
            ranks=ranks,
            scores=scores,
            similarities=similarities,
            candidates=int(candidates.filled.sum()) + unknown,
            candidates_per_source={name: int(number) for name, number in zip(candidates.sources, found, strict=True)},
            filtered=filtered | {name: int(mask.sum()) for name, mask in rejected.items()},
            active=filter_result.active,
            backoff_steps=backoff_steps,
            histograms=score_histograms(
                positives=filter_result.positives,
                kept=similarities[query, place],
                # Positives have a histogram already.
                filtered={
                    name: filter_result.scores[mask] for name, mask in rejected.items() if name != KNOWN_POSITIVE
                },
                teacher=filter_result.by_teacher,
            ),
        )

    @property
    def kept(self) -> int:
        """Total number of negatives."""
        return int((self.rows >= 0).sum())

    @property
    def distinct(self) -> int:
        """Number of distinct corpus rows among the negatives."""
        return len(np.unique(self.rows[self.rows >= 0]))

    @property
    def not_needed(self) -> int:
        """Number of accepted candidates that were not selected."""
        return self.candidates - self.kept - sum(self.filtered.values())

    @property
    def acceptance_rates(self) -> dict[str, float | None]:
        """Fraction accepted by each filter of the candidates that reached it; None if none reached it."""
        left = self.candidates - self.filtered.get(UNKNOWN_ID, 0)
        rates: dict[str, float | None] = {}
        for name in self.active:
            accepted = left - self.filtered.get(name, 0)
            rates[name] = round(accepted / left, 4) if left else None
            left = accepted
        return rates

    @cached_property
    def negatives(self) -> tuple[tuple[MinedNegative, ...], ...]:
        """The negatives of each query, in the order of selection."""
        return tuple(self.negatives_of(query) for query in range(len(self.rows)))

    def negatives_of(self, query: int) -> tuple[MinedNegative, ...]:
        """The negatives of one query, in the order of selection."""
        return tuple(self._negative(query, place) for place in range(int((self.rows[query] >= 0).sum())))

    def _negative(self, query: int, place: int) -> MinedNegative:
        hits = tuple(
            SourceHit(name, int(rank), None if np.isnan(score) else float(score))
            for name, rank, score in zip(
                self.sources, self.ranks[:, query, place], self.scores[:, query, place], strict=True
            )
            if rank != NOT_FOUND
        )
        source = self.sources[self.source_index[query, place]]
        origin = next(hit for hit in hits if hit.source == source)
        return MinedNegative(
            row=int(self.rows[query, place]),
            source=source,
            score=origin.score,
            rank=origin.rank,
            similarity=float(self.similarities[query, place]),
            hits=hits,
        )
