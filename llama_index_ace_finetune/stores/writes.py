"""What was written to a client's collections, so that copies of them in this process can be kept in step."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of

_WITH_IDS = {"upsert": "points", "upload_points": "points", "delete": "points_selector"}
_OTHERS = (
    "update_vectors", "delete_vectors", "set_payload", "overwrite_payload", "delete_payload", "clear_payload",
    "batch_update_points", "upload_collection", "create_vector_name", "delete_vector_name", "create_collection",
    "recreate_collection", "delete_collection", "update_collection_aliases",
)  # fmt: skip
_WATCHERS = "_ace_finetune_write_logs"


class WriteLog:
    """Points that were written or deleted since they were last taken. Safe to use from several threads."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._points: set[PointKey] | None = None  # None: any point may have changed, as at the start

    def note(self, points: Iterable[PointKey] | None) -> None:
        """Add points; None stands for all of them."""
        with self._lock:
            self.count += 1
            if points is None or self._points is None:
                self._points = None
            else:
                self._points.update(points)

    def take(self) -> set[PointKey] | None:
        """Return what was noted, and forget it; None where everything has to be read again."""
        with self._lock:
            taken, self._points = self._points, set()
            return taken


def watch(client: QdrantClient) -> WriteLog:
    """Return a log of every later write through this client object, whoever makes it, LlamaIndex's store included.

    The client's own writing methods are wrapped in place, once per client: another component that holds the same
    client calls them without knowing of us. Writes by another client or process are not seen.
    """
    logs: weakref.WeakSet[WriteLog] | None = getattr(client, _WATCHERS, None)
    if logs is None:
        logs = weakref.WeakSet()
        setattr(client, _WATCHERS, logs)
        for name in (*_WITH_IDS, *_OTHERS):
            if hasattr(client, name):  # older clients lack some
                setattr(client, name, _watched(getattr(client, name), _WITH_IDS.get(name), logs))
    log = WriteLog()
    logs.add(log)
    return log


def _watched(method: Callable[..., Any], points: str | None, logs: weakref.WeakSet[WriteLog]) -> Callable[..., Any]:
    @functools.wraps(method)
    def write(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        finally:  # a write that failed may have been half done
            given = options.get(points, arguments[1] if len(arguments) > 1 else None) if points else None
            ids = _ids(given)
            for log in list(logs):
                log.note(ids)

    return write


def _ids(given: Any) -> list[PointKey] | None:
    """Return the point ids of points or of a selector; None where it does not list them."""
    if isinstance(given, (models.PointIdsList, models.PointsList)):
        given = given.points
    elif isinstance(given, models.Batch):
        given = given.ids
    if not isinstance(given, list):
        return None
    try:
        return [_id_of(point) for point in given]
    except ValueError:
        return None


def _id_of(point: Any) -> PointKey:
    return key_of(getattr(point, "id", point))
