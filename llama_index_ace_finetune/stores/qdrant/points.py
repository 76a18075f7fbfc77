"""Read points in bulk, and nodes from their payloads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.write_log import is_embedded
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_PAGE = 1000
logger = logging.getLogger(__name__)


def read_points(
    client: QdrantClient,
    collection: str,
    location: str,
    *,
    ids: Sequence[PointKey] | None = None,
    query_filter: models.Filter | None = None,
    with_payload: bool | list[str] = True,
    with_vectors: bool | list[str] = False,
) -> Iterator[Any]:
    """Yield the points with these ids, or all points, or all that match the filter."""
    content: dict[str, Any] = {"with_payload": with_payload, "with_vectors": with_vectors}
    if ids is None and is_embedded(client):
        # The embedded store sorts all points for every page, so the ids are read in one page.
        scroll: dict[str, Any] = {"scroll_filter": query_filter, "with_payload": False, "limit": 2**31}
        points, _ = call_qdrant(location, client.scroll, collection, **scroll)
        if not with_payload and not with_vectors:
            yield from points
            return
        ids = [key_of(point.id) for point in points]
    if ids is not None:
        for start in range(0, len(ids), _PAGE):
            yield from call_qdrant(location, client.retrieve, collection, ids[start : start + _PAGE], **content)
        return
    offset: Any = None
    while True:
        points, offset = call_qdrant(
            location, client.scroll, collection, scroll_filter=query_filter, limit=_PAGE, offset=offset, **content
        )
        yield from points
        if offset is None:
            return


class NodeReader:
    """Reads nodes from the points of one collection; points without a node are left out, with a warning."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._unreadable: set[PointKey] = set()

    @property
    def unreadable(self) -> int:
        """Number of points without a readable node so far."""
        return len(self._unreadable)

    def read(self, points: Iterable[Any]) -> Iterator[tuple[Any, BaseNode]]:
        """Yield each point that holds a node, with the node."""
        found: list[PointKey] = []
        for point in points:
            node = node_in_payload(point.payload, point_id=point.id)
            if node is not None:
                yield point, node
            elif key_of(point.id) not in self._unreadable:
                found.append(key_of(point.id))
        if found:
            self._unreadable.update(found)
            logger.warning(
                "%d points in %s hold no LlamaIndex node that can be read, such as %r; they are left out",
                len(found), self._location, found[0],
            )  # fmt: skip
