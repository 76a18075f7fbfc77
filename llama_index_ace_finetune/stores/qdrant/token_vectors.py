"""Token vectors of memories as multivectors in Qdrant, which compares them by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import DIGITS, LOWEST
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant

TOKENS: Final = "tokens"
"""Name of the multivectors in a collection."""
# A request with more vectors can exceed a server's limit of 32 MB, at up to 400 numbers per vector.
_VECTORS_AT_ONCE = 4096


def token_vector_params(dimension: int) -> dict[str, models.VectorParams]:
    """Return the configuration of the multivectors, to add to the `vectors_config` of a new collection.

    They are on disk, in 16 bits, and without a graph, since they only score candidates of other vectors.
    """
    return {
        TOKENS: models.VectorParams(
            size=dimension,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=0),
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        )
    }


def require_token_vectors(client: QdrantClient, collection: str, location: str, *, dimension: int) -> None:
    """Check that a collection has multivectors of this dimension.

    Raises:
        StoreError: if it has none: it was built without them, or the server is older than version 1.10 and ignored the
            setting.
    """
    vectors = call_qdrant(location, client.get_collection, collection).config.params.vectors
    found = vectors.get(TOKENS) if isinstance(vectors, dict) else None
    if found is None or found.multivector_config is None:
        raise StoreError(
            f"The collection {collection!r} in {location} has no multivectors for late interaction; build it again "
            "with them on Qdrant 1.10 or later, or search without late interaction."
        )
    if found.size != dimension:
        raise StoreError(
            f"The token vectors of {collection!r} in {location} have {found.size} dimensions instead of {dimension}; "
            "build them again with this model."
        )


def upload_token_vectors(
    client: QdrantClient, collection: str, location: str, points: Sequence[PointKey], tokens: TokenVectors
) -> None:
    """Write the token vectors of existing points, replacing earlier ones; those of a text without tokens are deleted.

    Args:
        client: of the collection.
        collection: its name.
        location: as errors name it.
        points: one id per text of `tokens`.
        tokens: pooled as they should be stored.
    """
    empty = [point for point, length in zip(points, tokens.lengths, strict=True) if not length]
    if empty:
        call_qdrant(location, client.delete_vectors, collection, vectors=[TOKENS], points=empty)
    batch: list[models.PointVectors] = []
    size = 0
    for text, point in enumerate(points):
        vectors = tokens[text].tolist()
        if vectors:
            batch.append(models.PointVectors(id=point, vector={TOKENS: vectors}))
            size += len(vectors)
        if batch and (size >= _VECTORS_AT_ONCE or text == len(points) - 1):
            call_qdrant(location, client.update_vectors, collection, points=batch)
            batch, size = [], 0


def score_token_vectors(
    client: QdrantClient, collection: str, location: str, query: NDArray[np.float32], points: Sequence[PointKey]
) -> NDArray[np.float64]:
    """Return the MaxSim of a query and each of these points, float64 [n], as the mean over query tokens.

    Qdrant returns the sum; a point without token vectors, and a query without tokens, get the lowest score.

    Args:
        client: of the collection.
        collection: its name.
        location: as errors name it.
        query: unit vectors of the query's tokens, float32 [q, d].
        points: ids of the candidates.
    """
    if not len(query) or not len(points):
        return np.full(len(points), LOWEST)
    answer = call_qdrant(
        location,
        client.query_points,
        collection,
        query=query.tolist(),
        using=TOKENS,
        query_filter=models.Filter(must=[models.HasIdCondition(has_id=list(points))]),
        limit=len(points),
        with_payload=False,
    )
    scores = {key_of(point.id): point.score / len(query) for point in answer.points}
    return np.array([round(scores.get(key_of(point), LOWEST), DIGITS) for point in points], np.float64)
