"""WriteLog: the points written through a client, by which in-process indexes stay up to date."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.utils.fork import fork_safe_lock, lock_held_over_fork

_WITH_IDS = {"upsert": "points", "upload_points": "points", "delete": "points_selector"}
_OTHERS = (
    "update_vectors", "delete_vectors", "set_payload", "overwrite_payload", "delete_payload", "clear_payload",
    "batch_update_points", "upload_collection", "create_vector_name", "delete_vector_name", "create_collection",
    "recreate_collection", "delete_collection", "update_collection_aliases",
)  # fmt: skip
_WRITING: Final = (*_WITH_IDS, *_OTHERS)
_LOGS: Final = "_ace_finetune_write_logs"
_LOCK: Final = "_ace_finetune_lock"
_WRAPPING: Final = fork_safe_lock()
_Local = TypeVar("_Local", bound=QdrantLocal)


class WriteLog:
    """The points that were written or deleted since the last `drain`. Safe to use from several threads."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = fork_safe_lock()
        self._points: set[PointKey] | None = None  # None: any point may have changed, as at the start

    def record(self, points: Iterable[PointKey] | None) -> None:
        """Add points; None means that any point may have changed."""
        with self._lock:
            self.count += 1
            if points is None or self._points is None:
                self._points = None
            else:
                self._points.update(points)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded since the last `drain`."""
        with self._lock:
            return self._points is not None and not self._points

    def drain(self) -> set[PointKey] | None:
        """Return and clear the recorded points; None if everything has to be read again."""
        with self._lock:
            taken, self._points = self._points, set()
            return taken


def is_embedded(client: QdrantClient) -> bool:
    """Whether the client holds the points itself, in memory or in a folder."""
    return isinstance(getattr(client, "_client", None), QdrantLocal)


def subscribe(client: QdrantClient) -> WriteLog:
    """Return a log of every later write through this client object, also by LlamaIndex's store or other components.

    The client's writing methods are wrapped in place, once per client. Writes by another client or process are not
    recorded.
    """
    log = WriteLog()
    if isinstance(client._client, QdrantLocal):
        _logs_of(make_thread_safe(client._client)).add(log)
        return log
    with _WRAPPING:
        if _logs_of(client) is None:
            logs = _new_logs(client)
            for name in _WRITING:
                if hasattr(client, name):  # older clients lack some
                    setattr(client, name, _recording(getattr(client, name), name, logs))
    _logs_of(client).add(log)
    return log


def make_thread_safe(local: _Local) -> _Local:
    """Allow one thread at a time into an embedded store, which guards neither its SQLite connection nor its arrays.

    Its public methods are wrapped in place, once per store, for all of its clients; writing methods also record what
    they write. A forked child may read the store, and only the parent may write.
    """
    with _WRAPPING:
        if _logs_of(local) is None:
            lock, logs, process = lock_held_over_fork(), _new_logs(local), os.getpid()
            setattr(local, _LOCK, lock)
            for name in dir(type(local)):
                method = None if name.startswith("_") else getattr(local, name)
                if not callable(method):
                    continue
                if name in _WRITING:
                    method = _allowed(_recording(method, name, logs), local, process)
                setattr(local, name, _locked(method, lock))
    return local


def exclusive_access(client: QdrantClient) -> AbstractContextManager[Any]:
    """Return a context in which no other thread reads or writes the client's embedded store."""
    lock: AbstractContextManager[Any] | None = getattr(getattr(client, "_client", None), _LOCK, None)
    return lock or nullcontext()


def _logs_of(holder: Any) -> Any:
    return getattr(holder, _LOGS, None)


def _new_logs(holder: Any) -> weakref.WeakSet[WriteLog]:
    logs: weakref.WeakSet[WriteLog] = weakref.WeakSet()
    setattr(holder, _LOGS, logs)
    return logs


def _locked(method: Callable[..., Any], lock: threading.RLock) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        with lock:
            return method(*arguments, **options)

    return call


def _allowed(method: Callable[..., Any], local: QdrantLocal, process: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def write(*arguments: Any, **options: Any) -> Any:
        require_writable(local, process)
        return method(*arguments, **options)

    return write


def require_writable(local: QdrantLocal, process: int) -> None:
    """Raise StoreError if the store's folder is read-only, or was opened by another process than this one."""
    if local.persistent and os.getpid() != process:
        raise StoreError(
            f"The index in {str(local.location)!r} was opened before this process was forked, and can only be read "
            "here; write to it in the parent process, or use a Qdrant server."
        )
    if getattr(local, "read_only", False):
        raise StoreError(
            f"The index in {str(local.location)!r} is read-only; copy it to a folder that you may write to."
        )


def _recording(method: Callable[..., Any], name: str, logs: weakref.WeakSet[WriteLog]) -> Callable[..., Any]:
    points = _WITH_IDS.get(name)

    @functools.wraps(method)
    def write(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        finally:  # a failed write may have been done in part
            given = options.get(points, arguments[1] if len(arguments) > 1 else None) if points else None
            ids = _ids(given)
            for log in list(logs):
                log.record(ids)

    return write


def _ids(given: Any) -> list[PointKey] | None:
    """Return the point ids of points or of a selector; None if it does not list ids."""
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
