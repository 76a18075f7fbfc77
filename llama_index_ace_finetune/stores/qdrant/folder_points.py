"""FolderPoints: the points of a collection in an embedded Qdrant's folder, read with a restricted unpickler."""

from __future__ import annotations

import logging
import pickle
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qdrant_client import models
from qdrant_client.local.persistence import CollectionPersistence

from llama_index_ace_finetune.errors import StoreError, first_line
from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.stored_point import ForbiddenClassError, StoredPoint, read_stored_point

FILE: Final = "storage.sqlite"
_MODULUS: Final = 2**64
logger = logging.getLogger(__name__)


class FolderPoints(CollectionPersistence):
    """Replaces qdrant-client's reader and writer of `storage.sqlite`; the file format is the same.

    Args:
        folder: of the collection.
        label: name of the index in errors.
        dense: dimension of each dense vector by name; a point with another one is damaged.
        multi: dimension of each multivector by name.
        read_only: whether the file may only be read.

    Raises:
        StoreError: if the file is missing, is not an SQLite file, or has no table of points.
    """

    def __init__(
        self, folder: Path, *, label: str, dense: Mapping[str, int], multi: Mapping[str, int], read_only: bool
    ) -> None:
        self.location = folder / FILE
        self.before_first_write: Callable[[], None] | None = None
        self._label, self._dense, self._multi = label, dense, multi
        self._legacy_keys = {}
        self._checksums: dict[PointKey, int] = {}
        self.checksum = 0
        self.has_uncommitted = False
        self._in_transaction = False
        mode = "ro" if read_only else "rw"
        uri = f"{self.location.absolute().as_uri()}?mode={mode}"
        self._read_only = read_only
        try:
            # Searches run in worker threads, one at a time.
            self.storage = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self.storage.execute("PRAGMA trusted_schema=OFF")
            found = self.storage.execute("SELECT type FROM sqlite_master WHERE name = 'points'").fetchone()
        except sqlite3.Error as error:
            self.storage.close()
            raise self._unusable(error) from error
        if found != ("table",):  # a view could run any query
            self.storage.close()
            raise self._unusable("it has no table of points")

    @property
    def count(self) -> int:
        """Number of points that were read or written."""
        return len(self._checksums)

    def load(self) -> Iterator[models.PointStruct]:
        """Yield the points; damaged ones are left out, counted and logged.

        Raises:
            StoreError: if the file is damaged, no point can be read, or a point names a forbidden class.
        """
        outdated: list[int] = []
        damaged = 0
        try:
            # Latest first: older clients wrote a point under several spellings of its id.
            for row, key, blob in self.storage.execute("SELECT rowid, id, point FROM points ORDER BY rowid DESC"):
                try:
                    point = read_stored_point(blob)
                    self._require_sizes(point)
                except ValueError:
                    damaged += 1
                    continue
                if point.id in self._checksums:
                    outdated.append(row)
                    continue
                self._update_checksum(point.id, zlib.crc32(blob))
                if key != self.encode_key(point.id):
                    self._legacy_keys[point.id] = key
                yield models.PointStruct.model_construct(id=point.id, vector=point.vector, payload=point.payload)
            if outdated and not self._read_only:
                with self.storage:
                    self.storage.executemany("DELETE FROM points WHERE rowid = ?", [(row,) for row in outdated])
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        except ForbiddenClassError as error:
            raise StoreError(
                f"The index in {self._label} holds a point that could run code ({error}), and was not opened; do not "
                "use this folder, build the index from its texts with `ace-finetune index`."
            ) from error
        self._report(damaged)

    def persist(self, point: models.PointStruct) -> None:
        """Write a point, as qdrant-client does."""
        self._begin()
        identifier = key_of(point.id)
        stored = models.PointStruct.model_construct(id=identifier, vector=point.vector, payload=point.payload)
        blob = pickle.dumps(stored)
        with self._committed():
            legacy = self._legacy_keys.get(identifier)
            if legacy is not None:
                self.storage.execute("DELETE FROM points WHERE id = ?", (legacy,))
            self.storage.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", (self.encode_key(identifier), blob))
        self._legacy_keys.pop(identifier, None)
        self._update_checksum(identifier, zlib.crc32(blob))

    def delete(self, point_id: models.ExtendedPointId) -> None:
        """Delete a point."""
        self._begin()
        identifier = key_of(point_id)
        key = self._legacy_keys.get(identifier, self.encode_key(identifier))
        with self._committed():
            self.storage.execute("DELETE FROM points WHERE id = ?", (key,))
        self._legacy_keys.pop(identifier, None)
        self._update_checksum(identifier, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write what is written within as a whole or not at all, with one wait for the disk.

        After an error, this object and the points in memory may have what the file does not (`has_uncommitted`), and
        the file has to be read again.
        """
        self._in_transaction = True
        try:
            yield
            self.storage.commit()
            self.has_uncommitted = False
        except BaseException:
            self.storage.rollback()
            raise
        finally:
            self._in_transaction = False

    @contextmanager
    def _committed(self) -> Iterator[None]:
        if self._in_transaction:
            self.has_uncommitted = True
            yield
        else:
            with self.storage:
                yield

    def _begin(self) -> None:
        if self.before_first_write is not None:
            self.before_first_write()
            self.before_first_write = None

    def _update_checksum(self, identifier: PointKey, checksum: int | None) -> None:
        """Update the order-independent checksum of all points' bytes and ids."""
        self.checksum = (self.checksum - self._checksums.pop(identifier, 0)) % _MODULUS
        if checksum is not None:
            named = checksum * 2**32 + zlib.crc32(str(identifier).encode())
            self._checksums[identifier] = named
            self.checksum = (self.checksum + named) % _MODULUS

    def _require_sizes(self, point: StoredPoint) -> None:
        for name, vector in point.vector.items():
            rows, length = ([vector], self._dense[name]) if name in self._dense else (vector, self._multi.get(name))
            if length is not None and any(getattr(row, "shape", None) != (length,) for row in rows):
                raise ValueError("its vector has another dimension")

    def _report(self, damaged: int) -> None:
        if damaged and not self.count:
            raise self._unusable(f"none of its {damaged} points can be read")
        if damaged:
            logger.warning(
                "%d of %d points in %s are damaged and left out; build the index again with `ace-finetune index`",
                damaged, damaged + self.count, self.location,
            )  # fmt: skip

    def _unusable(self, reason: object) -> StoreError:
        if not self.location.exists():
            reason = "it is missing"
        said = first_line(reason) if isinstance(reason, Exception) else reason
        return StoreError(
            f"The points {str(self.location)!r} cannot be read ({said}); build the index again with "
            "`ace-finetune index`, or restore the folder."
        )
