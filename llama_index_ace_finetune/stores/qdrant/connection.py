"""Connections to Qdrant: a folder, memory, or a server; and its errors as StoreErrors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from qdrant_client import QdrantClient

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.failures import failure
from llama_index_ace_finetune.stores.qdrant.open_folder import open_folder
from llama_index_ace_finetune.stores.qdrant.server_client import ServerClient
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions, ServerSettings
from llama_index_ace_finetune.utils.redact import without_passwords

API_KEY_VARIABLE: Final = "QDRANT_API_KEY"
_Result = TypeVar("_Result")


def qdrant_key(variable: str = API_KEY_VARIABLE) -> str | None:
    """Return the value of an environment variable, QDRANT_API_KEY by default; None if it is unset or empty.

    Raises:
        StoreError: if it cannot be sent, as with a line break from a file inside of it; the message does not quote it.
    """
    return _sendable(os.environ.get(variable), f"The environment variable {variable}")


def connect(
    *,
    path: str | Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    client_options: ClientOptions | None = None,
) -> tuple[QdrantClient, str]:
    """Return a client, and its location as errors name it.

    Args:
        path: folder of an embedded store.
        url: address of a server; without a path or an address, the store is in memory.
        api_key: of the server; by default the environment variable QDRANT_API_KEY.
        client_options: `ServerSettings`, or arguments of `QdrantClient` such as `prefer_grpc` and `timeout`.

    Raises:
        StoreError: if both a folder and an address are given, or the folder is locked or cannot be used.
    """
    if path is not None and url is not None:
        raise StoreError("Give either a folder or a server's address for the index, not both.")
    settings = ServerSettings.of(client_options)
    if url is not None:
        location = repr(without_passwords(url))
        key = _sendable(api_key, "The API key") or qdrant_key()
        return call_qdrant(location, ServerClient, url, api_key=key, settings=settings), location
    options = dict(settings.options)
    location = repr(str(path)) if path is not None else "memory"
    if path is None:
        return QdrantClient(location=":memory:", **options), location
    return call_qdrant(location, open_folder, path, **options), location


def call_qdrant(location: str, function: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
    """Call Qdrant; any exception is raised as a StoreError that names the location."""
    try:
        return function(*arguments, **options)
    except StoreError:
        raise
    except Exception as error:
        raise failure(location, error) from error


def _sendable(key: str | None, what: str) -> str | None:
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise StoreError(f"{what} has a character that no key has, such as a line break; set it to the key only.")
    return key or None
