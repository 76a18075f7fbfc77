"""Errors of Qdrant's client and server as one sentence of ours."""

from __future__ import annotations

import json
import re
import ssl
from typing import Final

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import UnexpectedResponse

from llama_index_ace_finetune.errors import StoreError, first_line
from llama_index_ace_finetune.utils.redact import without_passwords

_MAX_MESSAGE: Final = 300
_TLS: Final = re.compile(
    r"\[SSL|\bSSL_|CERTIFICATE_VERIFY_FAILED|Ssl handshake failed|certificate verify", re.IGNORECASE
)
_REPLICAS: Final = re.compile(r"consistency factor|replica|remote shard|consensus|no active peer", re.IGNORECASE)
_KEY: Final = (401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_LATE: Final = (408, 504, grpc.StatusCode.DEADLINE_EXCEEDED)
_AWAY: Final = (502, 503, grpc.StatusCode.UNAVAILABLE)
_FAULT: Final = (500, 503, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
_BUSY: Final = (429, 500, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)


def failure(location: str, error: Exception) -> StoreError:
    """Return the StoreError to raise for an exception of Qdrant's."""
    message, code = message_of(error), _code(error)
    if "Index required" in message:
        return StoreError(f"Qdrant in {location} rejects the filter ({message}); name the key in `payload_indexes`.")
    if _is_tls(error):
        return StoreError(
            f"There is no TLS connection to Qdrant in {location} ({message}); check the certificate, and whether the "
            "address begins with http:// or https://."
        )
    if code in _KEY:
        return StoreError(
            f"Qdrant in {location} rejects the API key ({message}); give the key of this server, by default in the "
            "environment variable QDRANT_API_KEY."
        )
    if code in _LATE or _caused_by(error, httpx.TimeoutException):
        return StoreError(
            f"Qdrant in {location} did not answer in time ({message}); try again, or raise the timeout of "
            "`ServerSettings`."
        )
    if code in _FAULT and _REPLICAS.search(message):
        return StoreError(
            f"Qdrant in {location} has too few replicas for this request ({message}); start the missing nodes of the "
            "cluster."
        )
    if code in _AWAY or _caused_by(error, httpx.TransportError):
        return StoreError(
            f"Qdrant in {location} cannot be reached ({message}); check the address, with http:// or "
            "https://, and that the server is running."
        )
    return StoreError(f"The index in {location} cannot be used ({message}); check that it exists and is complete.")


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed soon: the server is busy, restarts, or cannot be reached."""
    if isinstance(error, ResourceExhaustedResponse):
        return True
    if _is_tls(error) or is_too_large(error):
        return False
    return _code(error) in (*_LATE, *_AWAY, *_BUSY) or _caused_by(error, httpx.TransportError)


def is_too_large(error: Exception) -> bool:
    """Whether the server rejects a request for its size."""
    return _code(error) == 413 or "larger than" in message_of(error)


def message_of(error: Exception) -> str:
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


def _code(error: Exception) -> int | grpc.StatusCode | None:
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
    found = code() if callable(code) else None
    return found if isinstance(found, grpc.StatusCode) else None


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error or what it wraps, or one of its causes, is of a kind."""
    for _ in range(8):
        if error is None or isinstance(error, kind):
            break
        source = getattr(error, "source", None)
        error = source if isinstance(source, BaseException) else error.__cause__ or error.__context__
    return isinstance(error, kind)


def _is_tls(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):  # a server that responds has the connection
        return False
    return _caused_by(error, ssl.SSLError) or bool(_TLS.search(message_of(error)))


def _shorten(sentence: str) -> str:
    sentence = " ".join(without_passwords(sentence).split())
    return sentence if len(sentence) <= _MAX_MESSAGE else f"{sentence[:_MAX_MESSAGE]}..."
