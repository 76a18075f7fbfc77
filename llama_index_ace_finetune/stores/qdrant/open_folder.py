"""Clients of index folders: all clients of a folder in this process share one store."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any, Final

from qdrant_client import QdrantClient

from llama_index_ace_finetune.stores.qdrant.folder_client import FolderQdrant
from llama_index_ace_finetune.stores.qdrant.write_log import make_thread_safe
from llama_index_ace_finetune.utils.fork import fork_safe_lock

# Reentrant, since garbage collection of a client may release its folder at any point.
_LOCK: Final = fork_safe_lock()
_OPEN: Final[dict[tuple[int, int], _Shared]] = {}


class FolderClient(QdrantClient):
    """A client of an index folder; clients of the same folder share one store, which the last to close releases."""

    def __init__(self, shared: _Shared, folder: Path, **options: Any) -> None:
        self._shared: _Shared | None = None
        super().__init__(location=":memory:", **options)
        self._closed_client, self._client = self._client, shared.local
        self._closed_client.close()
        self._init_options.update(location=None, path=str(folder), force_disable_check_same_thread=True)
        self._shared = shared

    def close(self, grpc_grace: float | None = None, **options: Any) -> None:
        """Release the folder; later calls raise as with any closed client."""
        shared, self._shared = getattr(self, "_shared", None), None
        if shared is not None:
            self._client = self._closed_client
            shared.release()


def open_folder(path: str | Path, **options: Any) -> FolderClient:
    """Return a client of an embedded index, opening the index unless this process has it open; thread-safe.

    Args:
        path: its folder; created if it does not exist.
        options: passed to `QdrantClient`.

    Raises:
        StoreError: if it cannot be used, or is open in another process.
    """
    folder = Path(path)
    with _LOCK:
        shared = _OPEN.get(_identity(folder)) if folder.is_dir() else None
        if shared is not None:
            shared.users += 1
        if shared is None or shared.local.closed:
            shared = _Shared(make_thread_safe(FolderQdrant(folder)))
            _OPEN[_identity(folder)] = shared
        try:
            return FolderClient(shared, folder, **options)
        except BaseException:
            shared.release()
            raise


class _Shared:
    """A store and its number of clients."""

    def __init__(self, local: FolderQdrant) -> None:
        self.local, self.users = local, 1

    def release(self) -> None:
        with _LOCK:
            self.users -= 1
            if self.users:
                return
            for identity, shared in list(_OPEN.items()):
                if shared is self:
                    del _OPEN[identity]
            self.local.close()


def _identity(folder: Path) -> tuple[int, int]:
    """Return device and inode: equal for every path to a folder, and different for a folder that replaced it."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _close_all() -> None:
    for shared in list(_OPEN.values()):
        shared.local.close()


atexit.register(_close_all)
