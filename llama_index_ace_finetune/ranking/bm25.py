"""BM25 search over short texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking import bm25_files
from llama_index_ace_finetune.ranking.bm25_weights import (
    BM25Settings,
    inverse_document_frequencies,
    posting_weights,
)
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer
from llama_index_ace_finetune.ranking.top_k import top_k
from llama_index_ace_finetune.utils.fork import fork_safe_lock

__all__ = ["BM25Index", "BM25Settings"]

_Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]  # concatenated term numbers, and the offset of each text
_NO_HITS = (np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class _IndexState:
    """Immutable state of an index: the postings and their weights. Readers need no lock."""

    postings: Postings
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, postings: Postings, settings: BM25Settings) -> _IndexState:
        idf = inverse_document_frequencies(postings, settings)
        return cls(postings, idf, posting_weights(postings, idf, settings))


class BM25Index:
    """BM25 index over texts; rows are numbers from 0 in the order of the texts.

    Scores are equal to those of rank-bm25. One weight per posting is computed when the index is built, so a query only
    sums the postings of its terms. A document matches if it contains a term of the query, whatever its score; other
    documents are never returned. Ties are ordered by row.

    `add` and `remove` are cheap; the next search recomputes the weights (about 30 ms for a million postings), which
    then equal those of an index built from the remaining texts. Row numbers of removed rows are not reused. Searching
    is thread-safe, also while another thread adds or removes.
    """

    def __init__(
        self, state: _IndexState, vocabulary: dict[str, int], settings: BM25Settings, tokenizer: Tokenizer
    ) -> None:
        """Internal: use `build` or `load`."""
        self.settings = settings
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._state = state
        self._added: list[_Encoded] = []
        self._removed: set[int] = set()
        self._lock = fork_safe_lock()

    @classmethod
    def build(
        cls, texts: Iterable[str], *, settings: BM25Settings | None = None, tokenizer: Tokenizer | None = None
    ) -> BM25Index:
        """Build an index; `texts` may be empty."""
        settings, tokenizer = settings or BM25Settings(), tokenizer or Tokenizer()
        vocabulary: dict[str, int] = {}
        terms, offsets = _encode(texts, vocabulary, tokenizer)
        postings = Postings.from_terms(terms, offsets, len(vocabulary))
        return cls(_IndexState.of(postings, settings), vocabulary, settings, tokenizer)

    @classmethod
    def from_rank_bm25(cls, bm25: Any, *, tokenizer: Tokenizer | None = None) -> BM25Index:
        """Convert a `BM25Okapi`, `BM25L` or `BM25Plus` of the package rank-bm25.

        Rows, parameters, corpus statistics and scores stay the same; a search takes a fraction of the time. rank-bm25
        does not store its tokenizer: search with lists of terms, or give a tokenizer that produces the same terms; it
        is used for queries and added texts that are strings.

        Raises:
            AceFinetuneError: if it is another object, or its statistics were changed.
        """
        from llama_index_ace_finetune.ranking.from_rank_bm25 import RankBM25  # only this method needs rank-bm25

        read = RankBM25.read(bm25)
        return cls(
            _IndexState.of(read.postings, read.settings), read.vocabulary, read.settings, tokenizer or Tokenizer()
        )

    def __len__(self) -> int:
        """Return the number of documents, without removed ones."""
        return int(self._current_state().postings.present.sum())

    @property
    def n_rows(self) -> int:
        """Number of rows, including removed ones."""
        return self._current_state().postings.n_rows

    # ------------------------------------------------------------------------------------------------ search

    def search(
        self, query: str | Sequence[str], k: int, *, allowed: ArrayLike | None = None, ties: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the best k matches of one query: rows int32 [<= k] and scores float32 [<= k], best first.

        Args:
            query: a text, or a list of terms as they are indexed; without a known term nothing is found.
            k: maximum number of hits, 1 or more.
            allowed: return only these rows: row numbers, or a bool mask [n_rows].
            ties: also return all rows that tie with the k-th hit, for callers with another order of ties.
        """
        _check_k(k)
        state = self._current_state()
        rows = None if allowed is None else _allowed_rows(allowed, state.postings.n_rows)
        return self._search(state, self._terms(state, query), k, rows, ties)

    def search_batch(
        self, queries: Sequence[str | Sequence[str]], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Search several queries and stack the results of `search`.

        Returns:
            Rows int32 [n, k], padded with -1, and scores float32 [n, k], padded with -inf.
        """
        _check_k(k)
        state = self._current_state()
        indices = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, query in enumerate(queries):
            rows, values = self._search(state, self._terms(state, query), k, None, ties=False)
            indices[i, : len(rows)] = rows
            scores[i, : len(rows)] = values
        return indices, scores

    def scores(self, query: str | Sequence[str]) -> NDArray[np.float64]:
        """Return the rank-bm25 score of every row, float64 [n_rows]; a removed row scores like an empty document."""
        state = self._current_state()
        terms = self._terms(state, query)
        return _sum_postings(state, terms) + self._shift(state, terms)

    def _terms(self, state: _IndexState, query: str | Sequence[str]) -> Counter[int]:
        """Count the known terms of the query by number; terms added after `state` was created are unknown."""
        known = self._vocabulary
        terms = self.tokenizer(query) if isinstance(query, str) else query
        numbers = [known[term] for term in terms if term in known]
        return Counter(number for number in numbers if number < state.postings.n_terms)

    def _search(
        self, state: _IndexState, terms: Counter[int], k: int, allowed: NDArray[np.int64] | None, ties: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if not terms:
            return _NO_HITS
        scores = _sum_postings(state, terms)
        floor = 0.0
        # If all weights are positive, a match is a score above 0; otherwise non-matches are marked.
        if any(state.idf[term] <= 0 for term in terms):
            floor = -np.inf
            scores[~_matching(state.postings, terms)] = floor
        among = scores if allowed is None else scores[allowed]
        rows = top_k(among, k, floor)
        if ties and len(rows) == k:
            rows = np.union1d(rows, np.flatnonzero(among == among[rows[-1]]))
            rows = rows[np.argsort(-among[rows], kind="stable")]
        rows = rows if allowed is None else allowed[rows]
        return rows.astype(np.int32), (scores[rows] + self._shift(state, terms)).astype(np.float32)

    def _shift(self, state: _IndexState, terms: Counter[int]) -> float:
        """The constant that the variant `plus` adds to every document."""
        if self.settings.variant != "plus":
            return 0.0
        return self.settings.effective_delta * float(sum(state.idf[term] * times for term, times in terms.items()))

    # ------------------------------------------------------------------------------------------------- update

    def add(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Index more texts and return their rows, int64 [n]."""
        with self._lock:
            first = self._n_rows_with_added()
            encoded = _encode(texts, self._vocabulary, self.tokenizer)
            self._added.append(encoded)
            return np.arange(first, first + len(encoded[1]) - 1)

    def remove(self, rows: Iterable[int]) -> None:
        """Remove documents; raise AceFinetuneError and remove none if a row does not exist or was removed before."""
        with self._lock:
            numbers = [int(row) for row in rows]
            n_rows, present = self._n_rows_with_added(), self._state.postings.present
            for row in numbers:
                removed = row in self._removed or (0 <= row < len(present) and not present[row])
                if removed or not 0 <= row < n_rows:
                    reason = "was removed before" if removed else f"does not exist (there are {n_rows})"
                    raise AceFinetuneError(f"Row {row} of the BM25 index {reason}; remove only existing rows.")
            self._removed.update(numbers)

    def _n_rows_with_added(self) -> int:
        return self._state.postings.n_rows + sum(len(offsets) - 1 for _, offsets in self._added)

    def _current_state(self) -> _IndexState:
        """Return the state, first applying pending additions and removals."""
        if not (self._added or self._removed):
            return self._state
        with self._lock:
            postings = self._state.postings
            if self._added:
                terms = np.concatenate([terms for terms, _ in self._added])
                lengths = np.concatenate([np.diff(offsets) for _, offsets in self._added])
                offsets = np.concatenate([[0], np.cumsum(lengths)])
                postings = postings.concat(Postings.from_terms(terms, offsets, len(self._vocabulary)))
            if self._removed:
                postings = postings.without_rows(np.fromiter(self._removed, np.int64))
            if postings is not self._state.postings:  # otherwise another thread has applied them
                self._state = _IndexState.of(postings, self.settings)
                self._added, self._removed = [], set()
            return self._state

    # --------------------------------------------------------------------------------------------------- save and load

    def save(self, folder: str | Path) -> None:
        """Write the index with its settings and those of its tokenizer, atomically.

        An existing index is replaced. Raises OutputExistsError if the folder holds anything else.
        """
        with self._lock:
            state = self._current_state()
            bm25_files.write(
                Path(folder),
                bm25_files.IndexContents(
                    state.postings, state.idf, state.weights, self._vocabulary, self.settings, self.tokenizer.settings
                ),
            )

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Load a saved index; its arrays are memory-mapped, so loading is quick and memory is shared.

        Raises StoreError if a file is missing, damaged or from a newer version.
        """
        contents = bm25_files.read(Path(folder))
        state = _IndexState(contents.postings, contents.idf, contents.weights)
        return cls(state, contents.vocabulary, contents.settings, Tokenizer(contents.tokenizer))


def _encode(texts: Iterable[str], vocabulary: dict[str, int], tokenizer: Tokenizer) -> _Encoded:
    if isinstance(texts, str):
        raise AceFinetuneError("The texts to index are one string; give a list of strings.")
    return tokenizer.encode(texts, vocabulary)


def _sum_postings(state: _IndexState, terms: Counter[int]) -> NDArray[np.float64]:
    """Sum the postings of the terms: float64 [n_rows]. The order is that of the query, so that equal texts tie."""
    starts, rows, weights = state.postings.starts, state.postings.rows, state.weights
    scores = np.zeros(state.postings.n_rows)
    for term, times in terms.items():
        first, last = starts[term], starts[term + 1]
        weight = weights[first:last]
        np.add.at(scores, rows[first:last], weight if times == 1 else weight * times)
    return scores


def _matching(postings: Postings, terms: Iterable[int]) -> NDArray[np.bool_]:
    """Return which rows contain any of the terms, bool [n_rows]."""
    matching = np.zeros(postings.n_rows, np.bool_)
    for term in terms:
        matching[postings.rows[postings.starts[term] : postings.starts[term + 1]]] = True
    return matching


def _allowed_rows(allowed: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    """Return the distinct row numbers in ascending order."""
    given = np.asarray(allowed)
    if given.dtype == np.bool_:
        if given.shape != (n_rows,):
            raise AceFinetuneError(f"The mask of allowed rows has shape {given.shape}; it must be ({n_rows},).")
        return np.flatnonzero(given)
    if given.size and given.dtype.kind not in "iu":
        raise AceFinetuneError(f"The allowed rows are of type {given.dtype}; give row numbers or a bool mask.")
    rows = np.unique(given.astype(np.int64))
    if len(rows) and not 0 <= rows[0] <= rows[-1] < n_rows:
        outside = rows[0] if rows[0] < 0 else rows[-1]
        raise AceFinetuneError(f"Row {outside} is allowed but does not exist; the index has rows 0 to {n_rows - 1}.")
    return rows


def _check_k(k: int) -> None:
    if k < 1:
        raise AceFinetuneError(f"k is {k}; it must be 1 or more.")
