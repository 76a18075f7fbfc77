"""Connections to Qdrant: a folder, memory, or a server; and its errors as StoreErrors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from llama_index_ace_finetune.errors import StoreError, first_line
from llama_index_ace_finetune.stores.qdrant.open_folder import open_folder
from llama_index_ace_finetune.utils.redact import without_passwords

API_KEY_VARIABLE: Final = "QDRANT_API_KEY"


def qdrant_key() -> str | None:
    """Return the value of the environment variable QDRANT_API_KEY; None if it is unset or empty."""
    return os.environ.get(API_KEY_VARIABLE) or None


_MAX_MESSAGE = 300
_Result = TypeVar("_Result")


def connect(
    *,
    path: str | Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> tuple[QdrantClient, str]:
    """Return a client, and its location as errors name it.

    Args:
        path: folder of an embedded store.
        url: address of a server; without a path or an address, the store is in memory.
        api_key: of the server; by default the environment variable QDRANT_API_KEY.
        client_options: passed to `QdrantClient`, such as `prefer_grpc` and `timeout`.

    Raises:
        StoreError: if both a folder and an address are given, or the folder is locked or cannot be used.
    """
    if path is not None and url is not None:
        raise StoreError("Give either a folder or a server's address for the index, not both.")
    options = dict(client_options or {})
    if url is not None:
        location = repr(without_passwords(url))
        key = api_key or qdrant_key()
        return call_qdrant(location, lambda: QdrantClient(url=url, api_key=key, **options)), location
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


def failure(location: str, error: Exception) -> StoreError:
    """Return the StoreError to raise for an exception of Qdrant's."""
    message = _message(error)
    if "Index required" in message:
        return StoreError(f"Qdrant in {location} rejects the filter ({message}); name the key in `payload_indexes`.")
    return StoreError(f"The index in {location} cannot be used ({message}); check that it exists and is complete.")


def _message(error: Exception) -> str:
    """Return the server's message, which its clients wrap into several lines, else the error's first line."""
    if isinstance(error, UnexpectedResponse):
        try:
            message = json.loads(error.content)["status"]["error"]
        except (ValueError, TypeError, KeyError, RecursionError):
            message = None
        if isinstance(message, str):
            return _shorten(f"{error.status_code}: {message}")
    details = getattr(error, "details", None)  # of gRPC
    message = details() if callable(details) else None
    return _shorten(message if isinstance(message, str) and message else first_line(error))


def _shorten(sentence: str) -> str:
    sentence = " ".join(without_passwords(sentence).split())
    return sentence if len(sentence) <= _MAX_MESSAGE else f"{sentence[:_MAX_MESSAGE]}..."
