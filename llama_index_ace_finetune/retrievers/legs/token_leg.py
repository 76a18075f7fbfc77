"""TokenLeg: late interaction, which scores the hits of the other legs by their stored token vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from llama_index.core.schema import MetadataMode
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.retrievers.legs.token_queries import TokenQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.fork import fork_safe_lock
from llama_index_ace_finetune.utils.text_key import text_key

MAX_ENCODED: Final = 256
"""Memories that a search encodes if they were written since the last one; more have to be encoded by `fill`."""


class TokenLeg(TokenQueries):
    """MaxSim of queries and memories; token vectors follow the store's writes.

    Token vectors are stored by text, so that those of a memory whose text changed are not used, and memories with equal
    texts share theirs.

    Args:
        store: of the memories.
        reranker: holds the token vectors of the model that serves.
    """

    def __init__(self, store: MemoryStore, reranker: TokenReranker) -> None:
        super().__init__(reranker.encoder)
        self._store, self.reranker = store, reranker
        self._log = store.subscribe()
        self._lock = fork_safe_lock()
        self._memories: dict[PointKey, tuple[str, str]] = {}  # node id and key
        self._key_of: dict[str, str] = {}
        self._texts: Counter[str] = Counter()  # memories of each key

    def scores(self, tokens: NDArray[np.float32], node_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the MaxSim of a query's token vectors and some memories, float64 [n], -1 for one without tokens.

        Raises:
            StoreError: if token vectors are missing or damaged.
        """
        self._sync(MAX_ENCODED)
        with self._lock:
            keys = [self._key_of.get(node_id, "") for node_id in node_ids]
        readable = [place for place, key in enumerate(keys) if key]  # others have no text
        scores = np.full(len(keys), -1.0)
        scores[readable] = self.reranker.score(tokens, [keys[place] for place in readable])
        return scores

    def refresh(self) -> None:
        """Compare the token vectors with the store before the next search."""
        self._log.record(None)

    def fill(self) -> int:
        """Encode and store the memories without token vectors, however many; return their number."""
        return self._sync(None)

    def _sync(self, limit: int | None) -> int:
        with self._lock:
            changed = self._log.drain()
            if changed is not None and not changed:
                return 0
            try:
                return self._update(changed, limit)
            except BaseException:
                self._log.record(None)  # the drained points were not read
                raise

    def _update(self, changed: set[PointKey] | None, limit: int | None) -> int:
        if changed is None:
            self._memories.clear()
            self._key_of.clear()
            self._texts.clear()
        unused = self._forget(changed or ())
        texts = {}
        points = self._store.points_as_nodes(None if changed is None else list(changed))
        for point, node_id, node in points:
            text = node.get_content(MetadataMode.EMBED)
            key = text_key(text)
            self._memories[point] = node_id, key
            self._key_of[node_id] = key
            self._texts[key] += 1
            if key not in self.reranker.store:
                texts[key] = text
        if limit is not None and len(texts) > limit:
            raise StoreError(
                f"{len(texts)} of {len(self._memories)} memories in {self._store.location} have no token vectors; "
                "build the index again, or call the retriever's `build_token_vectors`."
            )
        # Others are kept: a folder may serve another collection too.
        unused = [key for key in unused if not self._texts[key]]
        self.reranker.upsert(list(texts), list(texts.values()))
        self.reranker.delete(unused)
        return len(texts)

    def _forget(self, points: Iterable[PointKey]) -> list[str]:
        """Forget the memories of some points; return the keys of their texts."""
        keys = []
        for point in points:
            node_id, key = self._memories.pop(point, ("", ""))
            if key:
                self._key_of.pop(node_id, None)
                self._texts[key] -= 1
                keys.append(key)
        return keys
