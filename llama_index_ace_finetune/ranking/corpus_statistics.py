"""CorpusStatistics: what BM25 needs to know of a corpus, to score a part of it as the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from llama_index_ace_finetune.ranking.tokenizer import Tokenizer


@dataclass(frozen=True)
class CorpusStatistics:
    """Number of documents, number of their terms with repeats, and in how many documents each of some terms is.

    Statistics of parts add up to those of the whole.
    """

    documents: int
    length: int
    frequencies: Mapping[str, int]

    @classmethod
    def of(
        cls, texts: Iterable[str], terms: Collection[str], *, tokenizer: Tokenizer | None = None
    ) -> CorpusStatistics:
        """Count the terms of texts; only the frequencies of `terms`, such as those of all queries, are kept."""
        tokenizer = tokenizer or Tokenizer()
        wanted, found = frozenset(terms), Counter[str]()
        documents = length = 0
        for text in texts:
            own = tokenizer(text)
            documents, length = documents + 1, length + len(own)
            found.update(wanted.intersection(own))
        return cls(documents, length, dict(found))

    def __add__(self, other: CorpusStatistics) -> CorpusStatistics:
        frequencies = Counter(self.frequencies)
        frequencies.update(other.frequencies)
        return CorpusStatistics(self.documents + other.documents, self.length + other.length, dict(frequencies))

    @property
    def mean_length(self) -> float:
        """Mean number of terms of a document; 0 without documents."""
        return self.length / self.documents if self.documents else 0.0
