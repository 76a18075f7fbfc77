"""ServerTokenLeg: late interaction by the multivectors of a collection, which the Qdrant server compares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llama_index.core.schema import MetadataMode
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import LOWEST
from llama_index_ace_finetune.retrievers.legs.token_leg import MAX_ENCODED
from llama_index_ace_finetune.retrievers.legs.token_queries import TokenQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey, point_id
from llama_index_ace_finetune.stores.server_tokens import ServerTokens

_BATCH = 256


class ServerTokenLeg(TokenQueries):
    """MaxSim of queries and memories by the server.

    An upsert of the store writes the token vectors of a memory with its point; those of memories that something else
    wrote are encoded and written when they first are candidates.

    Args:
        store: of the memories.
        tokens: of the store.
    """

    def __init__(self, store: MemoryStore, tokens: ServerTokens) -> None:
        super().__init__(tokens.encoder)
        self._store, self._tokens = store, tokens

    def scores(self, tokens: NDArray[np.float32], node_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the MaxSim of a query's token vectors and some memories, float64 [n], -1 for one without tokens.

        Raises:
            StoreError: if the server fails, or more than 256 of the memories have no token vectors.
        """
        found = self._tokens.scores(tokens, node_ids)
        missing = np.flatnonzero(np.isnan(found)).tolist()
        if len(missing) > MAX_ENCODED:
            raise StoreError(
                f"{len(missing)} of {len(found)} candidates in {self._store.location} have no token vectors; call the "
                "retriever's `build_token_vectors`."
            )
        if len(missing):
            ids = [node_ids[place] for place in missing]
            self._write([point_id(node_id) for node_id in ids])
            found[missing] = self._tokens.scores(tokens, ids)
        return np.where(np.isnan(found), LOWEST, found)

    def refresh(self) -> None:
        """Do nothing: the server has what other processes wrote."""

    def fill(self) -> int:
        """Encode and store the memories without token vectors, however many; return their number."""
        missing = self._tokens.missing()
        return sum(self._write(missing[start : start + _BATCH]) for start in range(0, len(missing), _BATCH))

    def _write(self, points: Sequence[PointKey]) -> int:
        nodes = self._store.points_as_nodes(points)
        texts = {point: node.get_content(MetadataMode.EMBED) for point, _, node in nodes}
        self._tokens.write(texts)
        return len(texts)
