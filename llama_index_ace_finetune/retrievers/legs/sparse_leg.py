"""SparseLeg: the leg of a sparse encoder, whose stored vectors follow the store's writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.text_key import text_key


class SparseLeg(LexicalLeg):
    """An index of sparse vectors: new texts are encoded, and the vector of a text is deleted with its last memory.

    Args:
        store: of the memories.
        vectors: of their texts.
    """

    def __init__(self, store: MemoryStore, vectors: StoredSparseVectors) -> None:
        super().__init__(store, "sparse", build=self._build_index)
        self._vectors = vectors
        self._keys: list[str] = []  # by row
        self._memories: Counter[str] = Counter()  # of each key

    def fill(self) -> int:
        """Encode the memories without a vector, however many; return their number."""
        count = self._vectors.add(node.get_content(MetadataMode.EMBED) for node in self._store.nodes())
        self._vectors.flush()
        return count

    def _build_index(self, texts: Sequence[str]) -> SparseIndex:
        self._keys = [text_key(text) for text in texts]
        self._memories = Counter(self._keys)
        return SparseIndex.build(texts, self._vectors)

    def _on_update(self, removed: Sequence[int], added: Sequence[str]) -> None:
        keys = [text_key(text) for text in added]
        self._keys += keys
        self._memories.update(keys)
        gone = [self._keys[row] for row in removed]
        self._memories.subtract(gone)
        # Others are kept: a folder may serve another collection too.
        self._vectors.delete(key for key in gone if not self._memories[key])
