"""BM25 as sparse vectors, for a Qdrant collection that does the lexical search itself."""

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
    """Turns texts into sparse vectors whose inner product is BM25.

    A document's weight of a term with count f is f (k1 + 1) / (f + k1 L), or BM25L's form of it, with
    L = 1 - b + b * length / mean_length; a query's weight is the term's count times its idf in the whole collection.
    The idf stands in the query, so that it is right as documents come and go, and the same on every shard of a
    collection: the score is the in-process one. The mean length is the one at the time the collection was built.

    With `server_idf` the query's weight is the count, and Qdrant multiplies by an idf of its own,
    log(1 + (N - n + .5) / (n + .5)), which it counts on each shard for itself: so are collections that hold their
    vectors under Qdrant's IDF modifier.

    Terms are numbered by their CRC-32; at a hundred thousand distinct terms about one pair shares a number.
    """

    settings: BM25Settings
    tokenizer: Tokenizer
    mean_length: float
    server_idf: bool = False

    @classmethod
    def of(
        cls, texts: Iterable[str], *, settings: BM25Settings | None = None, tokenizer: Tokenizer | None = None
    ) -> SparseBM25:
        """Take the mean length from the texts that are indexed first.

        Raises:
            StoreError: for the variant "okapi", whose negative idf Qdrant does not have.
        """
        settings, tokenizer = settings or BM25Settings(), tokenizer or Tokenizer()
        if settings.variant == "okapi":
            raise StoreError("Qdrant cannot hold the weights of BM25 okapi; use the variant plus or l.")
        lengths = [len(tokenizer(text)) for text in texts]
        return cls(settings, tokenizer, max(1.0, sum(lengths) / max(1, len(lengths))))

    @classmethod
    def from_json(cls, values: dict[str, Any], *, server_idf: bool = False) -> SparseBM25:
        """Rebuild from `to_json`; `server_idf` where the collection has Qdrant's IDF modifier."""
        return cls(
            BM25Settings(**values["settings"]),
            Tokenizer(TokenizerSettings.from_json(values["tokenizer"])),
            float(values["mean_length"]),
            server_idf,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the collection's metadata has to hold, so that queries are weighted as the documents were."""
        return {
            "settings": asdict(self.settings),
            "tokenizer": asdict(self.tokenizer.settings),
            "mean_length": self.mean_length,
        }

    def document(self, text: str) -> models.SparseVector:
        """Return the vector of a text to be found."""
        terms = self.tokenizer(text)
        settings = self.settings
        k1, relative = settings.k1, 1 - settings.b + settings.b * len(terms) / self.mean_length
        weights = {}
        for number, count in _numbered(terms).items():
            if settings.variant == "l":
                shifted = count / relative + settings.effective_delta
                weights[number] = count * (k1 + 1) * shifted / (k1 + shifted)
            else:
                weights[number] = count * (k1 + 1) / (count + k1 * relative)
        return models.SparseVector(indices=list(weights), values=list(weights.values()))

    def query_terms(self, text: str) -> dict[int, int]:
        """Return the numbers of a query's terms and how often each stands in it."""
        return dict(_numbered(self.tokenizer(text)))

    def query(
        self, terms: Mapping[int, int], frequencies: NDArray[np.float64], total: int
    ) -> tuple[models.SparseVector, float]:
        """Return the vector of a query's terms, and what BM25 plus adds to every document's score.

        Args:
            terms: of the query, with their counts.
            frequencies: how many documents hold each of them, float64 [len(terms)].
            total: documents of the collection.
        """
        # A term that nobody holds counts as one that another process may just have written.
        idf = positive_idf(np.maximum(frequencies, 1.0), max(total, 1), self.settings)
        values = idf * np.fromiter(terms.values(), np.float64)
        held = float(values[frequencies > 0].sum())
        shift = self.settings.effective_delta * held if self.settings.variant == "plus" else 0.0
        return models.SparseVector(indices=list(terms), values=values.tolist()), shift


def _numbered(terms: Sequence[str]) -> Counter[int]:
    return Counter(crc32(term.encode("utf-8", "surrogatepass")) for term in terms)
