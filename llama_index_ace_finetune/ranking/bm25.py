"""BM25 search over short texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking import bm25_files
from llama_index_ace_finetune.ranking.bm25_weights import (
    BM25Settings,
    corpus_inverse_document_frequencies,
    inverse_document_frequencies,
    posting_weights,
)
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.postings_index import Encoded, IndexState, PostingsIndex, require_texts
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer

__all__ = ["BM25Index", "BM25Settings"]


@dataclass(frozen=True)
class _BM25State(IndexState):
    """The postings with their weights."""

    idf: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        postings: Postings,
        settings: BM25Settings,
        vocabulary: Iterable[str] = (),
        statistics: CorpusStatistics | None = None,
    ) -> _BM25State:
        if statistics is None:
            idf = inverse_document_frequencies(postings, settings)
            return cls(postings, idf, posting_weights(postings, idf, settings))
        terms = islice(vocabulary, postings.n_terms)  # another thread may have added more
        idf = corpus_inverse_document_frequencies(terms, statistics, settings)
        return cls(postings, idf, posting_weights(postings, idf, settings, mean_length=statistics.mean_length))


class BM25Index(PostingsIndex[_BM25State]):
    """BM25 index over texts; rows are numbers from 0 in the order of the texts.

    Scores are equal to those of rank-bm25. One weight per posting is computed when the index is built, so a query only
    sums the postings of its terms. A document matches if it contains a term of the query, whatever its score; other
    documents are never returned. Ties are ordered by row.

    `add` and `remove` are cheap; the next search recomputes the weights (about 30 ms for a million postings), which
    then equal those of an index built from the remaining texts. Row numbers of removed rows are not reused. Searching
    is thread-safe, also while another thread adds or removes.
    """

    def __init__(
        self,
        state: _BM25State,
        vocabulary: dict[str, int],
        settings: BM25Settings,
        tokenizer: Tokenizer,
        *,
        statistics: CorpusStatistics | None = None,
    ) -> None:
        """Internal: use `build` or `load`."""
        super().__init__(state)
        self.settings = settings
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._statistics = statistics

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        settings: BM25Settings | None = None,
        tokenizer: Tokenizer | None = None,
        statistics: CorpusStatistics | None = None,
    ) -> BM25Index:
        """Build an index; `texts` may be empty.

        With the `statistics` of a corpus, texts that are a part of it have the scores that they have in the whole.
        Terms that the statistics lack have no weight.
        """
        settings, tokenizer = settings or BM25Settings(), tokenizer or Tokenizer()
        # A query's term that no text has counts too: plus adds a constant for it.
        vocabulary = {term: number for number, term in enumerate(statistics.frequencies if statistics else ())}
        terms, offsets = tokenizer.encode(require_texts(texts), vocabulary)
        postings = Postings.from_terms(terms, offsets, len(vocabulary))
        state = _BM25State.of(postings, settings, vocabulary, statistics)
        return cls(state, vocabulary, settings, tokenizer, statistics=statistics)

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
            _BM25State.of(read.postings, read.settings), read.vocabulary, read.settings, tokenizer or Tokenizer()
        )

    def _encode(self, texts: Iterable[str]) -> Encoded:
        return self.tokenizer.encode(require_texts(texts), self._vocabulary)

    def _postings(self, encoded: Encoded) -> Postings:
        return Postings.from_terms(*encoded, len(self._vocabulary))

    def _state_of(self, postings: Postings) -> _BM25State:
        return _BM25State.of(postings, self.settings, self._vocabulary, self._statistics)

    def _terms(self, state: _BM25State, query: str | Sequence[str]) -> Counter[int]:
        """Count the known terms of the query by number; terms added after `state` was created are unknown."""
        known = self._vocabulary
        terms = self.tokenizer(query) if isinstance(query, str) else query
        numbers = [known[term] for term in terms if term in known]
        return Counter(number for number in numbers if number < state.postings.n_terms)

    def _weights(self, state: _BM25State, postings: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        return state.weights[postings]

    def _all_positive(self, state: _BM25State, terms: Mapping[int, float]) -> bool:
        return all(state.idf[term] > 0 for term in terms)

    def _shift(self, state: _BM25State, terms: Mapping[int, float]) -> float:
        """The constant that the variant `plus` adds to every document."""
        if self.settings.variant != "plus":
            return 0.0
        return self.settings.effective_delta * float(sum(state.idf[term] * times for term, times in terms.items()))

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
        state = _BM25State(contents.postings, contents.idf, contents.weights)
        return cls(state, contents.vocabulary, contents.settings, Tokenizer(contents.tokenizer))
