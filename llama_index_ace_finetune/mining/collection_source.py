"""An existing Qdrant collection as a source of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.mining.sources import UNKNOWN, Rankings, rankings_of_hits
from llama_index_ace_finetune.stores.qdrant.live_collection import LiveCollection


@dataclass(frozen=True)
class CollectionSource:
    """An existing collection as a `CandidateSource`; hits whose text is not in the corpus are `UNKNOWN`."""

    collection: LiveCollection
    queries: tuple[str, ...]
    row_of: dict[str, int]
    name: str = "collection"

    @classmethod
    def over(cls, collection: LiveCollection, queries: Sequence[str], corpus: Sequence[str]) -> CollectionSource:
        """Return the source of `queries` over the texts of `corpus`."""
        return cls(collection, tuple(queries), {normalise(text): row for row, text in enumerate(corpus)})

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`."""
        return rankings_of_hits([self._hits(self.queries[int(row)], k) for row in rows], k)

    def _hits(self, query: str, k: int) -> list[tuple[int, float]]:
        hits = self.collection.ranking(query, k)
        return [(self.row_of.get(normalise(text or ""), UNKNOWN), score) for text, score in hits]
