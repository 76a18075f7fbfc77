"""ServerTokens: the token vectors of a collection's memories, which Qdrant stores and compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_pooling import merge_repeated
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of, point_id
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.token_vectors import (
    TOKENS,
    point_groups,
    require_token_vectors,
    score_token_vectors,
    upload_token_vectors,
)


class ServerTokens:
    """Token vectors of memories as multivectors of their points.

    Args:
        client: of the collection.
        collection: its name.
        location: as errors name it.
        encoders: one of these has made the token vectors, and encodes queries and further memories.

    Raises:
        StoreError: if the collection has no multivectors, or none of the encoders made them.
    """

    def __init__(self, client: QdrantClient, collection: str, location: str, encoders: Sequence[TokenEncoder]) -> None:
        self.encoder = require_token_vectors(client, collection, location, encoders)
        self._client, self._collection, self._location = client, collection, location

    def groups_of(
        self, points: Sequence[models.PointStruct], nodes: Sequence[BaseNode]
    ) -> Iterator[list[models.PointStruct]]:
        """Add to the point of each node the token vectors of its text; yield the points in groups of one request."""
        texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
        return point_groups(points, self._encode(texts))

    def write(self, texts: Mapping[PointKey, str]) -> None:
        """Encode the texts of existing points, and write their token vectors."""
        encoded = self._encode(list(texts.values()))
        upload_token_vectors(self._client, self._collection, self._location, list(texts), encoded)

    def _encode(self, texts: Sequence[str]) -> TokenVectors:
        """Return the token vectors of memories, merged as those of an index folder are by default."""
        return merge_repeated(self.encoder.encode_documents(texts))

    def scores(self, query: NDArray[np.float32], node_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the MaxSim of a query's token vectors, float32 [q, d], and some memories, float64 [n].

        A memory without token vectors gets NaN.
        """
        points = [point_id(node_id) for node_id in node_ids]
        return score_token_vectors(self._client, self._collection, self._location, query, points)

    def missing(self) -> list[PointKey]:
        """Return the ids of the points without token vectors."""
        without = models.Filter(must_not=[models.HasVectorCondition(has_vector=TOKENS)])
        points = read_points(self._client, self._collection, self._location, query_filter=without, with_payload=False)
        return [key_of(point.id) for point in points]
