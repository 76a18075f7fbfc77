"""Token vectors of memories as multivectors in Qdrant, which compares them by MaxSim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.late_interaction.max_sim import DIGITS, LOWEST
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant

TOKENS: Final = "tokens"
"""Name of the multivectors in a collection."""
_METADATA: Final = "ace_finetune_tokens"
# About 20 MB as JSON; a server accepts 32 MB.
_NUMBERS_AT_ONCE = 2_000_000


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


def token_metadata(fingerprint: str) -> dict[str, Any]:
    """Return the metadata of a collection with token vectors; `fingerprint` is that of the `TokenEncoder`."""
    return {_METADATA: {"fingerprint": fingerprint}}


def token_fingerprint(client: QdrantClient, collection: str, location: str) -> str | None:
    """Return the fingerprint of the `TokenEncoder` that made the token vectors of a collection; None if it has none."""
    found = (call_qdrant(location, client.get_collection, collection).config.metadata or {}).get(_METADATA)
    return str(found.get("fingerprint")) if isinstance(found, dict) else None


def require_token_vectors(
    client: QdrantClient, collection: str, location: str, encoders: Sequence[TokenEncoder]
) -> TokenEncoder:
    """Return that of some encoders (at least one) which made the multivectors of a collection.

    Raises:
        StoreError: if the collection has no multivectors (it was built without them, or the server is older than
            version 1.10 and ignored the setting), or another model or projection made them.
    """
    vectors = call_qdrant(location, client.get_collection, collection).config.params.vectors
    found = vectors.get(TOKENS) if isinstance(vectors, dict) else None
    if found is None or found.multivector_config is None:
        raise StoreError(
            f"The collection {collection!r} in {location} has no multivectors for late interaction; build it again "
            "with them on Qdrant 1.10 or later, or search without late interaction."
        )
    stored = token_fingerprint(client, collection, location)
    for encoder in encoders:
        if encoder.fingerprint == stored and encoder.dimension == found.size:
            return encoder
    raise StoreError(
        f"The token vectors of {collection!r} in {location} were made by another model or projection than that of "
        f"{encoders[0].encoder.name!r}; build the collection again with this model."
    )


def point_groups(points: Sequence[models.PointStruct], tokens: TokenVectors) -> Iterator[list[models.PointStruct]]:
    """Add the token vectors of each point to it, and yield the points in groups small enough for one request."""
    for group in _groups(tokens):
        for place in group:
            if tokens.lengths[place]:
                points[place].vector[TOKENS] = _numbers(tokens[place])  # type: ignore[index, call-overload]
        yield [points[place] for place in group]


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
    for group in _groups(tokens):
        batch = [
            models.PointVectors(id=points[place], vector={TOKENS: _numbers(tokens[place])})
            for place in group
            if tokens.lengths[place]
        ]
        if batch:
            call_qdrant(location, client.update_vectors, collection, points=batch)


def score_token_vectors(
    client: QdrantClient, collection: str, location: str, query: NDArray[np.float32], points: Sequence[PointKey]
) -> NDArray[np.float64]:
    """Return the MaxSim of a query and each of these points, float64 [n], as the mean over query tokens.

    Qdrant returns the sum. A point without token vectors gets NaN; for a query without tokens, all get the lowest
    score.

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
    return np.array([round(scores.get(key_of(point), np.nan), DIGITS) for point in points], np.float64)


def _groups(tokens: TokenVectors) -> Iterator[list[int]]:
    """Yield the places of the texts, in order, in groups of at most `_NUMBERS_AT_ONCE` numbers, or of one text."""
    group: list[int] = []
    size = 0
    for place, length in enumerate(tokens.lengths.tolist()):
        if group and size + length * tokens.dimension > _NUMBERS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(place)
        size += length * tokens.dimension
    if group:
        yield group


def _numbers(vectors: NDArray[np.float32]) -> list[list[float]]:
    # The server keeps 16 bits, which is less than these digits; all digits of a float32 would double the request.
    rounded: list[list[float]] = vectors.astype(np.float64).round(6).tolist()
    return rounded
