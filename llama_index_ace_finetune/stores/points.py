"""Reading points in bulk, and nodes out of their payloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.connection import is_embedded, told
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of

_PAGE = 1000


def read_points(
    client: QdrantClient,
    collection: str,
    where: str,
    *,
    ids: Sequence[PointKey] | None = None,
    only: models.Filter | None = None,
    with_payload: bool | list[str] = True,
    with_vectors: bool | list[str] = False,
) -> Iterator[Any]:
    """Yield the points with these ids, or all, or all that pass the filter `only`."""
    content: dict[str, Any] = {"with_payload": with_payload, "with_vectors": with_vectors}
    if ids is None and is_embedded(client):
        # The embedded store sorts all its points at every page, so the ids come in one.
        scroll: dict[str, Any] = {"scroll_filter": only, "with_payload": False, "limit": 2**31}
        points, _ = told(where, client.scroll, collection, **scroll)
        if not with_payload and not with_vectors:
            yield from points
            return
        ids = [key_of(point.id) for point in points]
    if ids is not None:
        for start in range(0, len(ids), _PAGE):
            yield from told(where, client.retrieve, collection, ids[start : start + _PAGE], **content)
        return
    offset: Any = None
    while True:
        points, offset = told(
            where, client.scroll, collection, scroll_filter=only, limit=_PAGE, offset=offset, **content
        )
        yield from points
        if offset is None:
            return


def node_of(point: Any, where: str) -> BaseNode:
    """Return the node in a point's payload.

    Raises:
        StoreError: if the payload is not one that LlamaIndex writes.
    """
    try:
        return metadata_dict_to_node(point.payload or {})
    except ValueError as error:
        raise StoreError(
            f"The point {point.id!r} in {where} holds no LlamaIndex node; build an index of these texts with "
            "`ace-finetune index`."
        ) from error
