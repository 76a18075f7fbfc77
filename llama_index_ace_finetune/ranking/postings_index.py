"""PostingsIndex: search, scores and updates, which the indexes over an inverted index share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.top_k import top_k
from llama_index_ace_finetune.utils.fork import fork_safe_lock

Encoded = tuple[NDArray[Any], NDArray[np.int64]]
"""Concatenated words, terms or entries of several texts, and the offset of each text."""
_NO_HITS = (np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class IndexState:
    """Immutable state of an index: its postings, and what is computed from them. Readers need no lock."""

    postings: Postings


_State = TypeVar("_State", bound=IndexState)


class PostingsIndex(ABC, Generic[_State]):
    """An index that scores a document by the sum of its postings of the query's terms.

    Rows are numbers from 0 in the order of the texts. A document matches if it contains a term of the query; other
    documents are never returned. Ties are ordered by row.

    `add` and `remove` are cheap; the next search applies them, and the scores then equal those of an index built from
    the remaining texts. Row numbers of removed rows are not reused. Searching is thread-safe, also while another thread
    adds or removes.
    """

    def __init__(self, state: _State) -> None:
        """Internal: use the constructors of the subclasses."""
        self._state = state
        self._added: list[Encoded] = []
        self._removed: set[int] = set()
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        """Return the number of documents, without removed ones."""
        return int(self._current_state().postings.present.sum())

    @property
    def n_rows(self) -> int:
        """Number of rows, including removed ones."""
        return self._current_state().postings.n_rows

    @property
    def bytes_per_row(self) -> float:
        """Bytes of the postings and what is computed from them, per row; 0 without rows."""
        state = self._current_state()
        arrays = [*vars(state.postings).values(), *(one for name, one in vars(state).items() if name != "postings")]
        return sum(one.nbytes for one in arrays if isinstance(one, np.ndarray)) / max(state.postings.n_rows, 1)

    # ----------------------------------------------------------------------------------------- of each subclass

    @abstractmethod
    def _encode(self, texts: Iterable[str]) -> Encoded:
        """Return the numbers of the words or terms of texts; new ones are added to the vocabulary."""

    @abstractmethod
    def _postings(self, encoded: Encoded) -> Postings:
        """Return the postings of encoded texts, with the terms of the whole vocabulary."""

    @abstractmethod
    def _state_of(self, postings: Postings) -> _State:
        """Return the state with these postings."""

    @abstractmethod
    def _terms(self, state: _State, query: str | Sequence[str]) -> Mapping[int, float]:
        """Return the factor of each known term of the query, in the query's order; no term newer than `state`."""

    @abstractmethod
    def _weights(self, state: _State, postings: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weights of some postings."""

    def _normalised(
        self, state: _State, sums: NDArray[np.float64], rows: slice | NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the scores of rows from the sums of their postings."""
        return sums

    def _all_positive(self, state: _State, terms: Mapping[int, float]) -> bool:
        """Whether every posting of these terms has a weight above 0."""
        return True

    def _shift(self, state: _State, terms: Mapping[int, float]) -> float:
        """A constant that is added to the score of every document."""
        return 0.0

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
        """Return the score of every row, float64 [n_rows]; a removed row scores like an empty document."""
        state = self._current_state()
        terms = self._terms(state, query)
        return self._sums(state, terms) + self._shift(state, terms)

    def score(self, query: str | Sequence[str], rows: ArrayLike, *, shifted: bool = True) -> NDArray[np.float64]:
        """Return the scores of some rows, float64 [len(rows)], equal to those of `search` and `scores`.

        It takes time by the number of rows and terms, not by the size of the corpus.

        Args:
            query: as in `search`.
            rows: row numbers in any order.
            shifted: whether to add the constant that BM25's variant `plus` gives to every document. Without it, a
                document that does not match scores 0.

        Raises:
            AceFinetuneError: for a row that does not exist.
        """
        state = self._current_state()
        terms, wanted = self._terms(state, query), _row_numbers(rows, state.postings.n_rows)
        starts, posted = state.postings.starts, state.postings.rows
        sums = np.zeros(len(wanted))
        for term, factor in terms.items():
            first, last = starts[term], starts[term + 1]
            if first < last:
                # A term's postings are sorted by row.
                place = np.minimum(first + np.searchsorted(posted[first:last], wanted), last - 1)
                contains = np.flatnonzero(posted[place] == wanted)
                sums[contains] += self._weights(state, place[contains]) * factor
        sums = self._normalised(state, sums, wanted)
        return sums + self._shift(state, terms) if shifted else sums

    def _search(
        self, state: _State, terms: Mapping[int, float], k: int, allowed: NDArray[np.int64] | None, ties: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if not terms:
            return _NO_HITS
        scores = self._sums(state, terms)
        floor = 0.0
        # If all weights are positive, a match is a score above 0; otherwise non-matches are marked.
        if not self._all_positive(state, terms):
            floor = -np.inf
            scores[~_matching(state.postings, terms)] = floor
        among = scores if allowed is None else scores[allowed]
        rows = top_k(among, k, floor)
        if ties and len(rows) == k:
            rows = np.union1d(rows, np.flatnonzero(among == among[rows[-1]]))
            rows = rows[np.argsort(-among[rows], kind="stable")]
        rows = rows if allowed is None else allowed[rows]
        return rows.astype(np.int32), (scores[rows] + self._shift(state, terms)).astype(np.float32)

    def _sums(self, state: _State, terms: Mapping[int, float]) -> NDArray[np.float64]:
        """Sum the postings of the terms: float64 [n_rows]. The order is that of the query, so that equal texts tie."""
        starts, rows = state.postings.starts, state.postings.rows
        sums = np.zeros(state.postings.n_rows)
        for term, factor in terms.items():
            part = slice(starts[term], starts[term + 1])
            weights = self._weights(state, part)
            np.add.at(sums, rows[part], weights if factor == 1 else weights * factor)
        return self._normalised(state, sums, slice(None))

    # ------------------------------------------------------------------------------------------------- update

    def add(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Index more texts and return their rows, int64 [n]."""
        with self._lock:
            first = self._n_rows_with_added()
            encoded = self._encode(texts)
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
                    raise AceFinetuneError(f"Row {row} of the index {reason}; remove only existing rows.")
            self._removed.update(numbers)

    def _n_rows_with_added(self) -> int:
        return self._state.postings.n_rows + sum(len(offsets) - 1 for _, offsets in self._added)

    def _current_state(self) -> _State:
        """Return the state, first applying pending additions and removals."""
        if not (self._added or self._removed):
            return self._state
        with self._lock:
            postings = self._state.postings
            if self._added:
                terms = np.concatenate([terms for terms, _ in self._added])
                lengths = np.concatenate([np.diff(offsets) for _, offsets in self._added])
                offsets = np.concatenate([[0], np.cumsum(lengths)])
                postings = postings.concat(self._postings((terms, offsets)))
            if self._removed:
                postings = postings.without_rows(np.fromiter(self._removed, np.int64))
            if postings is not self._state.postings:  # otherwise another thread has applied them
                self._state = self._state_of(postings)
                self._added, self._removed = [], set()
            return self._state


def require_texts(texts: Iterable[str]) -> Iterable[str]:
    """Return the texts; raise AceFinetuneError if they are one string."""
    if isinstance(texts, str):
        raise AceFinetuneError("The texts to index are one string; give a list of strings.")
    return texts


def _matching(postings: Postings, terms: Iterable[int]) -> NDArray[np.bool_]:
    """Return which rows contain any of the terms, bool [n_rows]."""
    matching = np.zeros(postings.n_rows, np.bool_)
    for term in terms:
        matching[postings.rows[postings.starts[term] : postings.starts[term + 1]]] = True
    return matching


def _row_numbers(rows: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    given = np.asarray(rows)
    if given.size and given.dtype.kind not in "iu":
        raise AceFinetuneError(f"The rows are of type {given.dtype}; give row numbers.")
    numbers = given.astype(np.int64, copy=False)
    outside = numbers[(numbers < 0) | (numbers >= n_rows)]
    if outside.size:
        raise AceFinetuneError(f"Row {outside.flat[0]} does not exist; the index has rows 0 to {n_rows - 1}.")
    return numbers


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
