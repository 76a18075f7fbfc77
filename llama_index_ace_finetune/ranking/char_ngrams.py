"""CharNgramIndex: tf-idf cosine of character n-grams, which match parts of words, typing errors and identifiers."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.postings_index import Encoded, IndexState, PostingsIndex, require_texts

_SHORTEST, _LONGEST = 3, 5
_BLOCK = 1 << 18  # words of documents whose n-grams are counted at once, about 3 million n-grams
_MAX_COUNT: Final = np.iinfo(np.uint16).max
# 1 + ln(count), the weight of a count; 0 has none.
_SUBLINEAR: Final = np.concatenate([[0.0], 1 + np.log(np.arange(1, _MAX_COUNT + 1))])


@dataclass(frozen=True)
class _NgramState(IndexState):
    """The postings, the idf of each n-gram, float64 [n_terms], and the length of each document's vector [n_rows]."""

    idf: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, postings: Postings) -> _NgramState:
        frequencies = np.diff(postings.starts)
        idf = np.log((1 + int(postings.present.sum())) / (1 + frequencies)) + 1
        squares = np.zeros(postings.n_rows)
        for terms in _runs(postings.starts):
            part = slice(postings.starts[terms.start], postings.starts[terms.stop])
            weights = _SUBLINEAR[postings.counts[part]] * np.repeat(idf[terms], frequencies[terms])
            np.add.at(squares, postings.rows[part], weights**2)
        return cls(postings, idf, np.where(squares > 0, np.sqrt(squares), 1.0))


class CharNgramIndex(PostingsIndex[_NgramState]):
    """Index of the n-grams of 3 to 5 characters inside words; a score is the cosine of tf-idf vectors, from 0 to 1.

    A word is lower-cased and gets a space at each end, so "cat" gives " ca", "cat", "at ", " cat", "cat " and " cat ".
    With tf the count of an n-gram in a text, df the number of the N documents that contain it, its weight is
    (1 + ln tf) * (ln((1 + N) / (1 + df)) + 1); n-grams of the query that no document contains are ignored. Scores equal
    those of scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)`, up to a tf of
    65,535.

    It takes 6 bytes per distinct n-gram of each document: 4 to 7 KB for 100 words.
    """

    def __init__(self, words: _Words, state: _NgramState) -> None:
        """Internal: use `build`."""
        super().__init__(state)
        self._words = words

    @classmethod
    def build(cls, texts: Iterable[str]) -> CharNgramIndex:
        """Build an index; `texts` may be empty."""
        words = _Words()
        return cls(words, _NgramState.of(words.postings(words.encode(require_texts(texts)))))

    def _encode(self, texts: Iterable[str]) -> Encoded:
        return self._words.encode(require_texts(texts))

    def _postings(self, encoded: Encoded) -> Postings:
        return self._words.postings(encoded)

    def _state_of(self, postings: Postings) -> _NgramState:
        return _NgramState.of(postings)

    def _terms(self, state: _NgramState, query: str | Sequence[str]) -> Mapping[int, float]:
        """Return the weight of each n-gram in the query's unit vector, times its idf in a document."""
        known, starts = self._words.number_of, state.postings.starts
        words = query.lower().split() if isinstance(query, str) else query
        numbers = [known[ngram] for word in words for ngram in _ngrams(word) if ngram in known]
        used = [number for number in numbers if number < state.postings.n_terms and starts[number] < starts[number + 1]]
        weights = {number: float(_SUBLINEAR[count] * state.idf[number]) for number, count in Counter(used).items()}
        length = math.sqrt(math.fsum(weight**2 for weight in weights.values()))
        return {number: weight / length * float(state.idf[number]) for number, weight in weights.items()}

    def _weights(self, state: _NgramState, postings: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = _SUBLINEAR[state.postings.counts[postings]]
        return weights

    def _normalised(
        self, state: _NgramState, sums: NDArray[np.float64], rows: slice | NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return sums / state.lengths[rows]


class _Words:
    """The words of an index with their n-grams; each distinct word is analysed once."""

    def __init__(self) -> None:
        self.number_of: dict[str, int] = {}  # of n-grams
        self._words: dict[str, int] = {}
        self._ngrams = array("i")  # n-grams of all words, with repeats
        self._ends = array("q", [0])

    def encode(self, texts: Iterable[str]) -> Encoded:
        """Return the word numbers of texts, and add new words."""
        numbers, ends = array("i"), array("q", [0])
        for text in texts:
            for word in text.lower().split():
                number = self._words.get(word)
                numbers.append(self._add(word) if number is None else number)
            ends.append(len(numbers))
        return np.array(numbers, np.int32), np.array(ends, np.int64)

    def _add(self, word: str) -> int:
        known = self.number_of
        self._ngrams.extend([known.setdefault(ngram, len(known)) for ngram in _ngrams(word)])
        self._ends.append(len(self._ngrams))
        return self._words.setdefault(word, len(self._words))

    def postings(self, encoded: Encoded) -> Postings:
        """Count the n-grams of texts: the product of word counts by document and n-gram counts by word, in blocks."""
        words, offsets = encoded
        n_rows, n_words, n_ngrams = len(offsets) - 1, len(self._words), len(self.number_of)
        by_word = csr_array(
            (np.ones(len(self._ngrams), np.int32), np.array(self._ngrams, np.int32), np.array(self._ends, np.int64)),
            shape=(n_words, n_ngrams),
        )
        by_word.sum_duplicates()
        by_row = csr_array((np.ones(len(words), np.int32), words, offsets), shape=(n_rows, n_words))
        by_row.sum_duplicates()
        blocks = list(_runs(by_row.indptr))
        frequencies = np.zeros(n_ngrams, np.int64)
        for block in blocks:
            frequencies += np.bincount((by_row[block] @ by_word).indices, minlength=n_ngrams)
        starts = np.concatenate([[0], np.cumsum(frequencies)])
        rows, counts = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.uint16)
        filled = starts[:-1].copy()
        for block in blocks:
            found = (by_row[block] @ by_word).tocsc()  # sorted by n-gram, then by row
            added = np.diff(found.indptr)
            place = np.arange(found.nnz) + np.repeat(filled - found.indptr[:-1], added)
            rows[place] = found.indices + block.start
            counts[place] = np.minimum(found.data, _MAX_COUNT)
            filled += added
        return Postings(starts, rows, counts, np.diff(offsets).astype(np.int32), np.ones(n_rows, np.bool_))


def _ngrams(word: str) -> list[str]:
    """Return the n-grams of a word as scikit-learn's `char_wb`: one shorter than n counts once, as a whole."""
    padded = f" {word} "
    length = len(padded)
    ngrams: list[str] = []
    for n in range(_SHORTEST, _LONGEST + 1):
        ngrams += [padded[start : start + n] for start in range(max(1, length - n + 1))]
        if length <= n:
            break
    return ngrams


def _runs(starts: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of consecutive lists with about `_BLOCK` entries; those of list i begin at `starts[i]`."""
    first, n_lists = 0, len(starts) - 1
    while first < n_lists:
        last = int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), n_lists)
        yield slice(first, last)
        first = last
