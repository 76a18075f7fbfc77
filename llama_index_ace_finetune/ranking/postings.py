"""Which documents hold which terms: the counts that BM25 is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Postings:
    """Term counts, ordered by term and, within a term, by row.

    Term t stands in the rows `rows[starts[t]:starts[t + 1]]`, as often as `counts` says there.

    starts: int64 [n_terms + 1]. rows, counts: int32 [n_postings]. lengths: int32 [n_rows], the number of terms of
    each row with repeats, 0 where it was removed. present: bool [n_rows], False where it was removed.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    present: NDArray[np.bool_]

    @classmethod
    def from_terms(cls, terms: NDArray[np.int32], offsets: NDArray[np.int64], n_terms: int) -> Postings:
        """Count the terms of texts: text i holds `terms[offsets[i]:offsets[i + 1]]`, numbers below `n_terms`."""
        n_rows = len(offsets) - 1
        by_row = csr_array((np.ones(len(terms), np.int32), terms, offsets), shape=(n_rows, n_terms))
        by_term = by_row.tocsc()  # a counting sort: linear, and stable, so rows stay in order
        by_term.sum_duplicates()
        return cls(
            starts=by_term.indptr.astype(np.int64),
            rows=by_term.indices.astype(np.int32, copy=False),
            counts=by_term.data,
            lengths=np.diff(offsets).astype(np.int32),
            present=np.ones(n_rows, np.bool_),
        )

    @property
    def n_terms(self) -> int:
        """How many terms are numbered; a term may have no posting left."""
        return len(self.starts) - 1

    @property
    def n_rows(self) -> int:
        """How many rows there are, removed ones included."""
        return len(self.lengths)

    def followed_by(self, other: Postings) -> Postings:
        """Return both, with the rows of `other` numbered after these; `other` knows at least these terms."""
        grown = np.concatenate([self.starts, np.full(other.n_terms - self.n_terms, self.starts[-1])])
        # Each term's new postings follow its old ones: an old one moves down by the new ones of the terms before.
        old = np.arange(len(self.rows)) + np.repeat(other.starts[:-1], np.diff(grown))
        new = np.arange(len(other.rows)) + np.repeat(grown[1:], np.diff(other.starts))
        rows = np.empty(len(old) + len(new), np.int32)
        counts = np.empty_like(rows)
        rows[old], rows[new] = self.rows, other.rows + np.int32(self.n_rows)
        counts[old], counts[new] = self.counts, other.counts
        return Postings(
            starts=grown + other.starts,
            rows=rows,
            counts=counts,
            lengths=np.concatenate([self.lengths, other.lengths]),
            present=np.concatenate([self.present, other.present]),
        )

    def without(self, removed: NDArray[np.int64]) -> Postings:
        """Return the postings without those of some rows; the other rows keep their numbers."""
        present = self.present.copy()
        present[removed] = False
        kept = present[self.rows]
        before = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(kept, out=before[1:])
        return Postings(
            starts=before[self.starts],
            rows=self.rows[kept],
            counts=self.counts[kept],
            lengths=np.where(present, self.lengths, 0).astype(np.int32),
            present=present,
        )
