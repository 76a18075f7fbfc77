"""KnownQuerySearch: known queries as further vectors of a store's memories, merged into the hits of the dense leg."""

from __future__ import annotations

import numpy as np

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.retrievers.legs.further_vector_search import FurtherVectorSearch
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore


class KnownQuerySearch(FurtherVectorSearch):
    """Compares queries with the known queries of the memories that are in a store now.

    Args:
        store: of the memories.
        stored: vectors by the model of the dense leg.
    """

    def __init__(self, store: MemoryStore, stored: StoredKnownQueries) -> None:
        super().__init__(store, text_hash)
        self.fingerprint = stored.fingerprint
        texts, groups = np.unique(np.array(stored.memories, str), return_inverse=True)
        order = np.argsort(groups, kind="stable")
        self._add(texts.tolist(), np.bincount(groups, minlength=len(texts)), stored.vectors[order])
