"""What a mining run took, as arrays and as negatives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.candidates import NOT_FOUND, Candidates
from llama_index_ace_finetune.mining.filtering import Verdicts
from llama_index_ace_finetune.mining.filters import RIGHT_ANSWER, UNKNOWN_ID
from llama_index_ace_finetune.mining.histograms import ScoreHistograms, score_histograms
from llama_index_ace_finetune.mining.sampling import Chosen


@dataclass(frozen=True, slots=True)
class SourceHit:
    """The rank (from 1; 0 for a judgement) and the score that one source gave; None where it gave no score."""

    source: str
    rank: int
    score: float | None


@dataclass(frozen=True, slots=True)
class MinedNegative:
    """A corpus row taken as a negative.

    `source`, `rank` and `score` are those of the source it was taken from, `hits` are those of all that found it;
    `similarity` is what the margins went by: its cosine with the query, or the teacher's score.
    """

    row: int
    source: str
    score: float | None
    rank: int
    similarity: float
    hits: tuple[SourceHit, ...]


@dataclass(frozen=True, slots=True)
class RelaxedStep:
    """A looser relative margin, the queries that were short of negatives before it, and the negatives it gave."""

    relative_margin: float | None
    queries: int
    negatives: int


@dataclass(frozen=True)
class MinedNegatives:
    """The negatives of n queries, at most `count` each, from s sources, and where the other candidates went.

    Attributes:
        sources: their names; the first is that of judgements.
        rows: corpus rows int32 [n, count], in the order taken, -1 where there are fewer.
        taken_from: number of the source, int64 [n, count], -1 likewise.
        ranks: int32 [s, n, count], `NOT_FOUND` where a source did not find the row.
        scores: float32 [s, n, count], NaN where there is none.
        similarities: what the margins went by, float32 [n, count].
        candidates: different (query, row) pairs that the sources found, and hits that are not in the corpus.
        found: such pairs per source; one that several found counts for each.
        filtered: how many candidates each filter refused, filters that refused none left out.
        active: filters that were applied, in order.
        relaxed: what each step of the relaxation did.
        histograms: scores of right answers, of negatives and of what was refused.
    """

    sources: tuple[str, ...]
    rows: NDArray[np.int32]
    taken_from: NDArray[np.int64]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]
    similarities: NDArray[np.float32]
    candidates: int
    found: dict[str, int]
    filtered: dict[str, int]
    active: tuple[str, ...]
    relaxed: tuple[RelaxedStep, ...]
    histograms: ScoreHistograms

    @classmethod
    def of(
        cls, candidates: Candidates, verdicts: Verdicts, chosen: Chosen, relaxed: tuple[RelaxedStep, ...]
    ) -> MinedNegatives:
        """Pick out what was chosen, and count the rest."""
        columns, taken_from = chosen
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
        similarities[query, place] = verdicts.scores[query, column]

        refused = {name: mask for name in verdicts.active if (mask := verdicts.refused_by(name)).any()}
        unknown = int(candidates.unknown.sum())
        filtered = {UNKNOWN_ID: unknown} if unknown else {}
        found = (candidates.ranks != NOT_FOUND).sum(axis=(1, 2))
        return cls(
            sources=candidates.sources,
            rows=rows,
            taken_from=taken_from,
            ranks=ranks,
            scores=scores,
            similarities=similarities,
            candidates=int(candidates.filled.sum()) + unknown,
            found={name: int(number) for name, number in zip(candidates.sources, found, strict=True)},
            filtered=filtered | {name: int(mask.sum()) for name, mask in refused.items()},
            active=verdicts.active,
            relaxed=relaxed,
            histograms=score_histograms(
                positives=verdicts.positives,
                kept=similarities[query, place],
                # Right answers are counted as such already.
                filtered={name: verdicts.scores[mask] for name, mask in refused.items() if name != RIGHT_ANSWER},
                teacher=verdicts.by_teacher,
            ),
        )

    @property
    def kept(self) -> int:
        """Number of negatives over all queries."""
        return int((self.rows >= 0).sum())

    @property
    def distinct(self) -> int:
        """Number of different corpus rows among them."""
        return len(np.unique(self.rows[self.rows >= 0]))

    @property
    def not_needed(self) -> int:
        """Candidates that passed every filter when enough had been taken."""
        return self.candidates - self.kept - sum(self.filtered.values())

    @property
    def passing_shares(self) -> dict[str, float | None]:
        """Of the candidates that reached each filter, the share that passed it; None where none reached it."""
        left = self.candidates - self.filtered.get(UNKNOWN_ID, 0)
        shares: dict[str, float | None] = {}
        for name in self.active:
            passed = left - self.filtered.get(name, 0)
            shares[name] = round(passed / left, 4) if left else None
            left = passed
        return shares

    @cached_property
    def negatives(self) -> tuple[tuple[MinedNegative, ...], ...]:
        """The negatives of each query, in the order taken."""
        return tuple(self.negatives_of(query) for query in range(len(self.rows)))

    def negatives_of(self, query: int) -> tuple[MinedNegative, ...]:
        """The negatives of one query, in the order taken."""
        return tuple(self._negative(query, place) for place in range(int((self.rows[query] >= 0).sum())))

    def _negative(self, query: int, place: int) -> MinedNegative:
        hits = tuple(
            SourceHit(name, int(rank), None if np.isnan(score) else float(score))
            for name, rank, score in zip(
                self.sources, self.ranks[:, query, place], self.scores[:, query, place], strict=True
            )
            if rank != NOT_FOUND
        )
        source = self.sources[self.taken_from[query, place]]
        taken = next(hit for hit in hits if hit.source == source)
        return MinedNegative(
            row=int(self.rows[query, place]),
            source=source,
            score=taken.score,
            rank=taken.rank,
            similarity=float(self.similarities[query, place]),
            hits=hits,
        )
