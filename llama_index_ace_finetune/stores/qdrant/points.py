"""Reading points in bulk, and nodes out of their payloads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.write_log import is_embedded
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_PAGE = 1000
logger = logging.getLogger(__name__)


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


class NodeReader:
    """Reads nodes out of the points of one collection; those that hold none are left out, with a warning."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._unreadable: set[PointKey] = set()

    @property
    def unreadable(self) -> int:
        """Points that held no node so far."""
        return len(self._unreadable)

    def read(self, points: Iterable[Any]) -> Iterator[tuple[Any, BaseNode]]:
        """Yield the points that hold a node, each with it."""
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
                len(found), self._where, found[0],
            )  # fmt: skip
