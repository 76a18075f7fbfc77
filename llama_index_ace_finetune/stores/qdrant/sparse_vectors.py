"""SparseBM25: BM25 as sparse vectors, for lexical search in Qdrant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.ranking.bm25_weights import BM25Settings, positive_idf
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings

BM25: Final = "bm25"


@dataclass(frozen=True)
class SparseBM25:
    """Encodes texts as sparse vectors whose dot product is the BM25 score.

    The document weight of a term with count f is f (k1 + 1) / (f + k1 L), or BM25L's form of it, with
    L = 1 - b + b * length / mean_length; the query weight is the term's count times its idf in the whole collection.
    The idf is in the query vector, so it stays correct when documents are added or deleted, and is the same on every
    shard: scores equal those of the in-process BM25. The mean length is that of the texts when the collection was
    built.

    With `server_idf` (collections whose sparse vectors have Qdrant's IDF modifier) the query weight is the count, and
    Qdrant multiplies by log(1 + (N - n + .5) / (n + .5)), counted per shard.

    Term ids are CRC-32 hashes; among a hundred thousand distinct terms about one pair collides.
    """

    settings: BM25Settings
    tokenizer: Tokenizer
    mean_length: float
    server_idf: bool = False

    @classmethod
    def of(
        cls, texts: Iterable[str], *, settings: BM25Settings | None = None, tokenizer: Tokenizer | None = None
    ) -> SparseBM25:
        """Compute the mean length from the texts to index.

        Raises:
            StoreError: for the variant "okapi", whose negative idf Qdrant does not support.
        """
        settings, tokenizer = settings or BM25Settings(), tokenizer or Tokenizer()
        if settings.variant == "okapi":
            raise StoreError("Qdrant cannot hold the weights of BM25 okapi; use the variant plus or l.")
        lengths = [len(tokenizer(text)) for text in texts]
        return cls(settings, tokenizer, max(1.0, sum(lengths) / max(1, len(lengths))))

    @classmethod
    def from_json(cls, values: dict[str, Any], *, server_idf: bool = False) -> SparseBM25:
        """Rebuild from `to_json`; set `server_idf` if the collection has Qdrant's IDF modifier."""
        return cls(
            BM25Settings(**values["settings"]),
            Tokenizer(TokenizerSettings.from_json(values["tokenizer"])),
            float(values["mean_length"]),
            server_idf,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings for the collection's metadata, so that queries are encoded as the documents were."""
        return {
            "settings": asdict(self.settings),
            "tokenizer": asdict(self.tokenizer.settings),
            "mean_length": self.mean_length,
        }

    def document(self, text: str) -> models.SparseVector:
        """Return the vector of a document."""
        terms = self.tokenizer(text)
        settings = self.settings
        k1, relative = settings.k1, 1 - settings.b + settings.b * len(terms) / self.mean_length
        weights = {}
        for number, count in _term_counts(terms).items():
            if settings.variant == "l":
                shifted = count / relative + settings.effective_delta
                weights[number] = count * (k1 + 1) * shifted / (k1 + shifted)
            else:
                weights[number] = count * (k1 + 1) / (count + k1 * relative)
        return models.SparseVector(indices=list(weights), values=list(weights.values()))

    def query_terms(self, text: str) -> dict[int, int]:
        """Return the ids of a query's terms and their counts."""
        return dict(_term_counts(self.tokenizer(text)))

    def query(
        self, terms: Mapping[int, int], frequencies: NDArray[np.float64], total: int
    ) -> tuple[models.SparseVector, float]:
        """Return the vector of a query, and the constant that BM25+ adds to every document's score.

        Args:
            terms: term ids of the query, with their counts.
            frequencies: document frequency of each term, float64 [len(terms)].
            total: number of documents in the collection.
        """
        # A term without documents gets frequency 1: another process may just have written one.
        idf = positive_idf(np.maximum(frequencies, 1.0), max(total, 1), self.settings)
        values = idf * np.fromiter(terms.values(), np.float64)
        present = float(values[frequencies > 0].sum())
        shift = self.settings.effective_delta * present if self.settings.variant == "plus" else 0.0
        return models.SparseVector(indices=list(terms), values=values.tolist()), shift


def _term_counts(terms: Sequence[str]) -> Counter[int]:
    return Counter(crc32(term.encode("utf-8", "surrogatepass")) for term in terms)
