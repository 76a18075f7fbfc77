"""FolderQdrant: embedded Qdrant over an index folder that may be untrusted or read-only."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from qdrant_client import models
from qdrant_client.local.local_collection import LocalCollection
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.folder_points import FILE, FolderPoints
from llama_index_ace_finetune.stores.qdrant.write_log import require_writable
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object

META: Final = "meta.json"
OURS: Final = "ace_finetune"
"""Key of the metadata of a collection that this package wrote."""
_RECORD: Final = "ace_finetune_points"
_LOCK: Final = ".lock"
_REFUSAL: Final = Refusal(
    "The index's description", "build the index again with `ace-finetune index`, or restore the folder", StoreError
)
_Result = TypeVar("_Result")
logger = logging.getLogger(__name__)


class FolderQdrant(QdrantLocal):
    """qdrant-client's embedded store, with safe reading and checks.

    - Points are read with a restricted unpickler (`FolderPoints`); nothing outside of the folder is read or written.
    - The folder is locked before it is read. A read-only folder can be read.
    - Points that are written by one call are written as a whole or not at all, in one transaction; Qdrant's own store
      waits for the disk after each point.
    - On closing, the number and the checksum of a collection's points are recorded, and the next opening checks them.

    Args:
        folder: of the index; created if it does not exist.

    Raises:
        StoreError: if the folder cannot be read, is damaged or hostile, or is open elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.label = repr(str(folder))
        self.read_only = False
        self._process = os.getpid()
        super().__init__(str(folder), force_disable_check_same_thread=True)

    def close(self, **options: Any) -> None:
        """Record the collections' checksums, and release the folder. In a forked child the parent's lock stays."""
        if os.getpid() != self._process:
            self._closed = True
            return
        if self.closed:
            return
        try:
            self._record_points()
        finally:
            super().close(**options)

    def create_collection(self, collection_name: str, *arguments: Any, **options: Any) -> bool:
        """Create a collection; raises StoreError if its folder has files although the index does not list it."""
        folder = Path(self._collection_path(collection_name))
        if collection_name not in self.collections and folder.is_dir() and any(folder.iterdir()):
            raise StoreError(
                f"The folder {str(folder)!r} holds files of a collection that the index does not list; move it away, "
                "or give another name."
            )
        made = bool(super().create_collection(collection_name, *arguments, **options))
        collection = self.collections[collection_name]
        collection.close()
        collection.storage = self._points(collection_name, collection)
        return made

    def upsert(self, collection_name: str, *arguments: Any, **options: Any) -> models.UpdateResult:
        """Write points."""
        return self._in_transaction(super().upsert, collection_name, *arguments, **options)

    def upload_points(self, collection_name: str, *arguments: Any, **options: Any) -> None:
        """Write points."""
        return self._in_transaction(super().upload_points, collection_name, *arguments, **options)

    def update_vectors(self, collection_name: str, *arguments: Any, **options: Any) -> models.UpdateResult:
        """Write vectors of points."""
        return self._in_transaction(super().update_vectors, collection_name, *arguments, **options)

    def delete(self, collection_name: str, *arguments: Any, **options: Any) -> models.UpdateResult:
        """Delete points."""
        return self._in_transaction(super().delete, collection_name, *arguments, **options)

    def _in_transaction(
        self, method: Callable[..., _Result], collection_name: str, *arguments: Any, **options: Any
    ) -> _Result:
        points = cast(FolderPoints, self._get_collection(collection_name).storage)
        try:
            with points.transaction():
                return method(collection_name, *arguments, **options)
        except BaseException:
            if points.has_uncommitted:
                self._read_again(points)
            raise

    def _read_again(self, points: FolderPoints) -> None:
        """Replace a collection, which has points in memory that could not be written, by what its file has."""
        for name, collection in list(self.collections.items()):
            if collection.storage is points:
                collection.close()
                self._open_collection(name, collection.config)
                self.collections[name].text_indexes = collection.text_indexes

    def _save(self, *arguments: Any, **options: Any) -> None:
        require_writable(self, self._process)
        super()._save(*arguments, **options)

    def _collection_path(self, collection_name: str) -> str:
        """Return a collection's folder; raises StoreError if it is outside of the index, also by a link."""
        parent = Path(os.path.realpath(self.location)) / "collection"
        folder = Path(self.location) / "collection" / collection_name
        inside = Path(os.path.realpath(folder))
        if parent not in inside.parents or inside != parent / os.path.normpath(collection_name):
            raise StoreError(
                f"The collection {collection_name!r:.80} in {self.label} is outside of the index's folder, and was "
                "not opened; do not use this folder, or give the collection another name."
            )
        return str(folder)

    def _load(self) -> None:
        try:
            self._lock()
            self._read()
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise StoreError(
                    f"The index in {self.label} cannot be read ({error.strerror or error}); check its permissions."
                ) from error
            raise

    def _lock(self) -> None:
        folder = Path(self.location)
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"The index folder {self.label} cannot be used (it is a file); give a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (META, _LOCK):
            _require_no_link(folder / name)
        lock = self._open_lock(folder / _LOCK)
        if lock is None:
            return
        import portalocker  # here, since its import searches for writable folders

        kind = portalocker.LockFlags.SHARED if self.read_only else portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(lock, kind | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            lock.close()
            raise StoreError(
                f"The index folder {self.label} is open in another process; close that one, or use a Qdrant server."
            ) from error
        self._flock_file = lock

    def _open_lock(self, file: Path) -> Any:
        """Return the lock file; None if it does not exist and cannot be created."""
        try:
            if not file.exists():
                file.write_text("tmp lock file", encoding="utf-8")  # what Qdrant writes
            return file.open("r+", encoding="utf-8")
        except OSError:
            self.read_only = True
        with contextlib.suppress(OSError):
            return file.open(encoding="utf-8")
        return None

    def _read(self) -> None:
        meta = Path(self.location) / META
        if not meta.exists() and not self.read_only:
            write_text(meta, '{"collections": {}, "aliases": {}}')
        described = read_json_object(meta, _REFUSAL)
        try:
            for name, config in described["collections"].items():
                config.pop("init_from", None)  # of earlier clients
                self._open_collection(name, models.CreateCollection(**config))
            self.aliases = {str(alias): str(name) for alias, name in described["aliases"].items()}
            for name, indexes in described.get("text_indexes", {}).items():
                self.collections[name].text_indexes = {
                    field: models.TextIndexParams(**params) for field, params in indexes.items()
                }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _REFUSAL.because(meta, "is corrupt, or of another version of Qdrant") from error

    def _open_collection(self, name: str, config: models.CreateCollection) -> None:
        self._collection_path(name)
        collection = LocalCollection(config)  # in memory, since Qdrant's own reader would unpickle
        self.collections[name] = collection
        collection.storage = self._points(name, collection)
        collection.persistent = True
        collection.load_vectors()
        self._compare(name, collection)

    def _points(self, name: str, collection: LocalCollection) -> FolderPoints:
        folder = Path(self._collection_path(name))
        file = folder / FILE
        _require_no_link(file)
        points = FolderPoints(
            folder,
            label=self.label,
            dense={name: params.size for name, params in collection.vectors_config.items()},
            multi={name: params.size for name, params in collection.multivectors_config.items()},
            read_only=self.read_only,
        )
        points.before_first_write = lambda: self._forget_record(collection)
        return points

    def _compare(self, name: str, collection: LocalCollection) -> None:
        """Compare the points with the record of the last close."""
        record = (collection.config.metadata or {}).get(_RECORD)
        if not isinstance(record, dict):
            return
        points = cast(FolderPoints, collection.storage)
        if record == _record_of(points):
            return
        if not points.count:
            raise StoreError(
                f"The collection {name!r} in {self.label} has lost its points: it holds none of "
                f"{record.get('points')}; build the index again with `ace-finetune index`, or restore the folder."
            )
        if points.count > record.get("points", 0):  # another Qdrant client may have added some
            return
        logger.warning(
            "the collection %r in %s was changed by another program since it was closed: it holds %d points, %s were "
            "written; unless that was intended, build the index again with `ace-finetune index`",
            name, self.label, points.count, record.get("points"),
        )  # fmt: skip

    def _record_points(self) -> None:
        changed = False
        for collection in self.collections.values():
            metadata = collection.config.metadata or {}
            if OURS in metadata and _RECORD not in metadata:
                metadata[_RECORD] = _record_of(cast(FolderPoints, collection.storage))
                changed = True
        if changed and not self.read_only:
            self._save()

    def _forget_record(self, collection: LocalCollection) -> None:
        """Remove the record before the first write, since it would be wrong if the process were killed later."""
        if (collection.config.metadata or {}).pop(_RECORD, None) is not None:
            self._save()

    def _abandon(self) -> None:
        for collection in self.collections.values():
            collection.close()
        if self._flock_file is not None:
            self._flock_file.close()  # releases the lock


def _record_of(points: FolderPoints) -> dict[str, Any]:
    return {"points": points.count, "checksum": f"{points.checksum:016x}"}


def _require_no_link(file: Path) -> None:
    """Raise StoreError if a file of the index is a link, or something else than a file."""
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise StoreError(f"The file {str(file)!r} of the index is a link or not a file; restore the folder.")
