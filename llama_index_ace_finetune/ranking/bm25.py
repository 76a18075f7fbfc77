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

_Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]  # term numbers end to end, and where each text begins
_NOTHING = (np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class _Weighted:
    """One state of an index: the postings and the weight of each. Never changed, so readers need no lock."""

    postings: Postings
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, postings: Postings, settings: BM25Settings) -> _Weighted:
        idf = inverse_document_frequencies(postings, settings)
        return cls(postings, idf, posting_weights(postings, idf, settings))


class BM25Index:
    """Texts that can be searched by their words; rows are numbers from 0 in the order the texts came.

    The scores are rank-bm25's. They are computed once, one weight per posting, so that a query is a sum of its
    terms' postings. A document matches when it holds a term of the query, whatever its score; others never come
    back. Equal scores are ordered by row.

    `add` and `remove` are cheap; the weights, which depend on every document, are computed anew by the next search
    (about 30 ms for a million postings) and are then those of a fresh build of the remaining texts. A removed row's
    number is never used again. Searching from several threads is safe, also while another adds or removes.
    """

    def __init__(
        self, state: _Weighted, vocabulary: dict[str, int], settings: BM25Settings, tokenizer: Tokenizer
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
        """Index texts; none at all is fine."""
        settings, tokenizer = settings or BM25Settings(), tokenizer or Tokenizer()
        vocabulary: dict[str, int] = {}
        terms, offsets = _encode(texts, vocabulary, tokenizer)
        postings = Postings.from_terms(terms, offsets, len(vocabulary))
        return cls(_Weighted.of(postings, settings), vocabulary, settings, tokenizer)

    @classmethod
    def from_rank_bm25(cls, bm25: Any, *, tokenizer: Tokenizer | None = None) -> BM25Index:
        """Take over a `BM25Okapi`, `BM25L` or `BM25Plus` of the package rank-bm25.

        Rows, parameters, corpus statistics and scores stay the same; a search takes a fraction of the time. rank-bm25
        does not know how its texts were cut into terms: ask with a list of terms, or give a tokenizer that cuts alike,
        which is used for queries that are texts and for texts that are added.

        Raises:
            AceFinetuneError: for another object, or one whose statistics were changed.
        """
        from llama_index_ace_finetune.ranking.from_rank_bm25 import RankBM25  # others need not load that package

        read = RankBM25.read(bm25)
        return cls(_Weighted.of(read.postings, read.settings), read.vocabulary, read.settings, tokenizer or Tokenizer())

    def __len__(self) -> int:
        """Return how many documents can be found."""
        return int(self._refreshed().postings.present.sum())

    @property
    def n_rows(self) -> int:
        """How many rows were ever given out, removed ones included."""
        return self._refreshed().postings.n_rows

    # ------------------------------------------------------------------------------------------------ searching

    def search(
        self, query: str | Sequence[str], k: int, *, allowed: ArrayLike | None = None, ties: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the best k matches of one query: rows int32 [<= k] and scores float32 [<= k], best first.

        Args:
            query: the text, or its terms as they are indexed; one without a known term finds nothing.
            k: at most so many, 1 or more.
            allowed: only these rows may come back: row numbers, or a bool mask [n_rows].
            ties: return every row that scores as the k-th, too, for a caller who orders equal scores otherwise.
        """
        _check_k(k)
        state = self._refreshed()
        rows = None if allowed is None else _allowed_rows(allowed, state.postings.n_rows)
        return self._search(state, self._terms(state, query), k, rows, ties)

    def search_batch(
        self, queries: Sequence[str | Sequence[str]], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return what `search` returns for each query, stacked.

        Returns:
            Rows int32 [n, k], padded with -1, and scores float32 [n, k], padded with -inf.
        """
        _check_k(k)
        state = self._refreshed()
        indices = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, query in enumerate(queries):
            rows, values = self._search(state, self._terms(state, query), k, None, ties=False)
            indices[i, : len(rows)] = rows
            scores[i, : len(rows)] = values
        return indices, scores

    def scores(self, query: str | Sequence[str]) -> NDArray[np.float64]:
        """Return rank-bm25's score of every row, float64 [n_rows]; a removed row scores as an empty document does."""
        state = self._refreshed()
        terms = self._terms(state, query)
        return _sum(state, terms) + self._shift(state, terms)

    def _terms(self, state: _Weighted, query: str | Sequence[str]) -> Counter[int]:
        """Number the query's known terms and count them; a term added after `state` was made is not known yet."""
        known = self._vocabulary
        terms = self.tokenizer(query) if isinstance(query, str) else query
        numbers = [known[term] for term in terms if term in known]
        return Counter(number for number in numbers if number < state.postings.n_terms)

    def _search(
        self, state: _Weighted, terms: Counter[int], k: int, allowed: NDArray[np.int64] | None, ties: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if not terms:
            return _NOTHING
        scores = _sum(state, terms)
        floor = 0.0
        # With positive weights alone, "matches" and "scores above 0" are the same; else the matches are marked.
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

    def _shift(self, state: _Weighted, terms: Counter[int]) -> float:
        """What `plus` gives to every document alike."""
        if self.settings.variant != "plus":
            return 0.0
        return self.settings.shift * float(sum(state.idf[term] * times for term, times in terms.items()))

    # ------------------------------------------------------------------------------------------------- changing

    def add(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Index more texts and return their rows, int64 [n]."""
        with self._lock:
            first = self._n_rows_with_added()
            encoded = _encode(texts, self._vocabulary, self.tokenizer)
            self._added.append(encoded)
            return np.arange(first, first + len(encoded[1]) - 1)

    def remove(self, rows: Iterable[int]) -> None:
        """Take documents out; raise AceFinetuneError, and take none out, if a row is not (or no longer) there."""
        with self._lock:
            wanted = [int(row) for row in rows]
            n_rows, present = self._n_rows_with_added(), self._state.postings.present
            for row in wanted:
                gone = row in self._removed or (0 <= row < len(present) and not present[row])
                if gone or not 0 <= row < n_rows:
                    reason = "was removed before" if gone else f"does not exist (there are {n_rows})"
                    raise AceFinetuneError(f"Row {row} of the BM25 index {reason}; remove rows that are in it.")
            self._removed.update(wanted)

    def _n_rows_with_added(self) -> int:
        return self._state.postings.n_rows + sum(len(offsets) - 1 for _, offsets in self._added)

    def _refreshed(self) -> _Weighted:
        """Return the state with everything added and removed so far in it."""
        if not (self._added or self._removed):
            return self._state
        with self._lock:
            postings = self._state.postings
            if self._added:
                terms = np.concatenate([terms for terms, _ in self._added])
                lengths = np.concatenate([np.diff(offsets) for _, offsets in self._added])
                offsets = np.concatenate([[0], np.cumsum(lengths)])
                postings = postings.followed_by(Postings.from_terms(terms, offsets, len(self._vocabulary)))
            if self._removed:
                postings = postings.without(np.fromiter(self._removed, np.int64))
            if postings is not self._state.postings:  # else another thread has just done it
                self._state = _Weighted.of(postings, self.settings)
                self._added, self._removed = [], set()
            return self._state

    # --------------------------------------------------------------------------------------------------- saving

    def save(self, folder: str | Path) -> None:
        """Write the index, its settings and its tokenizer's; the folder is whole or absent at any moment.

        An index that is there is replaced. Raises OutputExistsError if the folder holds anything else.
        """
        with self._lock:
            state = self._refreshed()
            bm25_files.write(
                Path(folder),
                bm25_files.Contents(
                    state.postings, state.idf, state.weights, self._vocabulary, self.settings, self.tokenizer.settings
                ),
            )

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Open a saved index; its arrays are mapped, not read, so that this is quick and memory is shared.

        Raises StoreError, naming the file and the remedy, if a file is missing, damaged or from a newer version.
        """
        contents = bm25_files.read(Path(folder))
        state = _Weighted(contents.postings, contents.idf, contents.weights)
        return cls(state, contents.vocabulary, contents.settings, Tokenizer(contents.tokenizer))


def _encode(texts: Iterable[str], vocabulary: dict[str, int], tokenizer: Tokenizer) -> _Encoded:
    if isinstance(texts, str):
        raise AceFinetuneError("The texts to index are one string; give a list of strings.")
    return tokenizer.encode(texts, vocabulary)


def _sum(state: _Weighted, terms: Counter[int]) -> NDArray[np.float64]:
    """Add up the postings of the terms: float64 [n_rows]. The order is the query's, so that equal texts tie."""
    starts, rows, weights = state.postings.starts, state.postings.rows, state.weights
    scores = np.zeros(state.postings.n_rows)
    for term, times in terms.items():
        first, last = starts[term], starts[term + 1]
        weight = weights[first:last]
        np.add.at(scores, rows[first:last], weight if times == 1 else weight * times)
    return scores


def _matching(postings: Postings, terms: Iterable[int]) -> NDArray[np.bool_]:
    """Return which rows hold one of the terms, bool [n_rows]."""
    matching = np.zeros(postings.n_rows, np.bool_)
    for term in terms:
        matching[postings.rows[postings.starts[term] : postings.starts[term + 1]]] = True
    return matching


def _allowed_rows(allowed: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    """Return row numbers in ascending order, each once."""
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
        raise AceFinetuneError(f"k is {k}; ask for 1 hit or more.")
