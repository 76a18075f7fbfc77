"""Addresses of Qdrant collections, as Qdrant itself writes them: `URL/collections/NAME`, `FOLDER/collection/NAME`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

OF_SERVER: Final = "collections"
OF_FOLDER: Final = "collection"
_SERVER = re.compile(r"https?://", re.IGNORECASE)


def is_collection_address(source: str | Path) -> bool:
    """Return whether this is a Qdrant server, the folder of an embedded Qdrant, or a collection of either."""
    return is_server(source) or embedded_folder(Path(source)) is not None


def is_server(source: str | Path) -> bool:
    """Return whether this is an http or https address."""
    return bool(_SERVER.match(str(source)))


def embedded_folder(path: Path) -> tuple[str, str] | None:
    """Return the folder of an embedded Qdrant and the name of a collection, "" if the path does not name one."""
    try:
        if (path / "meta.json").is_file() and (path / OF_FOLDER).is_dir():
            return str(path), ""
        if path.parent.name == OF_FOLDER and (path.parents[1] / "meta.json").is_file():
            return str(path.parents[1]), path.name
    except (OSError, ValueError):  # no path at all
        pass
    return None
