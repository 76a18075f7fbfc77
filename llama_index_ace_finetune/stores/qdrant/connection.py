"""Reaching Qdrant: a folder, memory, or a server."""

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
    """Return what the environment variable QDRANT_API_KEY holds; None where it is unset or empty."""
    return os.environ.get(API_KEY_VARIABLE) or None


_LONGEST = 300
_Result = TypeVar("_Result")


def connect(
    *,
    path: str | Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> tuple[QdrantClient, str]:
    """Return a client, and where it looks, to be named in errors.

    Args:
        path: folder of an embedded store.
        url: address of a server; with neither, the store is in memory.
        api_key: of the server; by default what the environment variable QDRANT_API_KEY holds.
        client_options: passed to `QdrantClient`, such as `prefer_grpc` and `timeout`.

    Raises:
        StoreError: for both a folder and an address, or a folder that is locked or cannot be used.
    """
    if path is not None and url is not None:
        raise StoreError("Give either a folder or a server's address for the index, not both.")
    options = dict(client_options or {})
    if url is not None:
        where = repr(without_passwords(url))
        key = api_key or qdrant_key()
        return told(where, lambda: QdrantClient(url=url, api_key=key, **options)), where
    where = repr(str(path)) if path is not None else "memory"
    if path is None:
        return QdrantClient(location=":memory:", **options), where
    return told(where, open_folder, path, **options), where


def told(where: str, function: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
    """Call Qdrant; whatever goes wrong is a StoreError that says where."""
    try:
        return function(*arguments, **options)
    except StoreError:
        raise
    except Exception as error:
        raise failure(where, error) from error


def failure(where: str, error: Exception) -> StoreError:
    """Return the error to raise for one of Qdrant's."""
    said = _said(error)
    if "Index required" in said:
        return StoreError(f"Qdrant in {where} refuses the filter ({said}); name the key in `payload_indexes`.")
    return StoreError(f"The index in {where} cannot be used ({said}); check that it is there and whole.")


def _said(error: Exception) -> str:
    """Return the server's own sentence, which its clients wrap into several lines, else the error's first line."""
    if isinstance(error, UnexpectedResponse):
        try:
            said = json.loads(error.content)["status"]["error"]
        except (ValueError, TypeError, KeyError, RecursionError):
            said = None
        if isinstance(said, str):
            return _shortened(f"{error.status_code}: {said}")
    details = getattr(error, "details", None)  # of gRPC
    said = details() if callable(details) else None
    return _shortened(said if isinstance(said, str) and said else first_line(error))


def _shortened(sentence: str) -> str:
    sentence = " ".join(without_passwords(sentence).split())
    return sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST]}..."
