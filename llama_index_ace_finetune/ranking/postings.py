"""Inverted index: the postings, which are term counts per document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Postings:
    """Term counts, sorted by term and, within a term, by row.

    Term t is in the rows `rows[starts[t]:starts[t + 1]]`, with the counts `counts[starts[t]:starts[t + 1]]`.

    starts: int64 [n_terms + 1]. rows: int32 [n_postings]. counts: int32 or uint16 [n_postings]; weights
    float32 in place of counts for sparse vectors. lengths: int32 [n_rows], the number of terms of each row with
    repeats, 0 if it was removed. present: bool [n_rows], False if it was removed.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.int32] | NDArray[np.uint16] | NDArray[np.float32]
    lengths: NDArray[np.int32]
    present: NDArray[np.bool_]

    @classmethod
    def from_terms(cls, terms: NDArray[np.int32], offsets: NDArray[np.int64], n_terms: int) -> Postings:
        """Count the terms of texts: text i has the term numbers `terms[offsets[i]:offsets[i + 1]]`, below `n_terms`."""
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
        """Size of the vocabulary, including terms without postings."""
        return len(self.starts) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows, including removed ones."""
        return len(self.lengths)

    def concat(self, other: Postings) -> Postings:
        """Append `other`, whose rows are numbered after these; its vocabulary must extend this one."""
        grown = np.concatenate([self.starts, np.full(other.n_terms - self.n_terms, self.starts[-1])])
        # The new postings of a term follow its old ones, so an old one moves by the new ones of earlier terms.
        old = np.arange(len(self.rows)) + np.repeat(other.starts[:-1], np.diff(grown))
        new = np.arange(len(other.rows)) + np.repeat(grown[1:], np.diff(other.starts))
        rows = np.empty(len(old) + len(new), np.int32)
        counts = np.empty(len(rows), self.counts.dtype)
        rows[old], rows[new] = self.rows, other.rows + np.int32(self.n_rows)
        counts[old], counts[new] = self.counts, other.counts
        return Postings(
            starts=grown + other.starts,
            rows=rows,
            counts=counts,
            lengths=np.concatenate([self.lengths, other.lengths]),
            present=np.concatenate([self.present, other.present]),
        )

    def without_rows(self, removed: NDArray[np.int64]) -> Postings:
        """Return the postings without the removed rows; the other rows keep their numbers."""
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
