"""ServerClient: a client of a Qdrant server that applies `ServerSettings` to every request."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from llama_index_ace_finetune.stores.qdrant.failures import is_temporary, is_too_large, message_of
from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings
from llama_index_ace_finetune.utils.redact import without_passwords

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 30.0
logger = logging.getLogger(__name__)


class ServerClient(QdrantClient):
    """A client whose reads have the consistency of the settings, and whose writes are repeated and divided.

    All of these writes can be repeated without harm: they replace or delete points by their ids.

    Args:
        url: address of the server.
        api_key: sent with each request, and removed from the server's error messages.
        settings: of the requests.
    """

    def __init__(self, url: str, *, api_key: str | None, settings: ServerSettings) -> None:
        super().__init__(url=url, api_key=api_key, **settings.client_options)
        self.settings = settings
        self._address = without_passwords(url)
        if api_key is not None:
            self.http.client.add_middleware(_remove_from_errors(api_key))

    def query_batch_points(self, *arguments: Any, **options: Any) -> Any:
        """Search with the consistency of the settings."""
        return super().query_batch_points(*arguments, **{**self.settings.reading, **options})

    def query_points(self, *arguments: Any, **options: Any) -> Any:
        """Search with the consistency of the settings."""
        return super().query_points(*arguments, **{**self.settings.reading, **options})

    def scroll(self, *arguments: Any, **options: Any) -> Any:
        """Read points with the consistency of the settings."""
        return super().scroll(*arguments, **{**self.settings.reading, **options})

    def retrieve(self, *arguments: Any, **options: Any) -> Any:
        """Read points with the consistency of the settings."""
        return super().retrieve(*arguments, **{**self.settings.reading, **options})

    def upsert(self, collection_name: str, points: Any, *arguments: Any, **options: Any) -> Any:
        """Write points; a request that is too large is divided."""
        return self._divided(super().upsert, collection_name, points, arguments, options)

    def update_vectors(self, collection_name: str, points: Any, *arguments: Any, **options: Any) -> Any:
        """Write vectors of existing points; a request that is too large is divided."""
        return self._divided(super().update_vectors, collection_name, points, arguments, options)

    def delete(self, *arguments: Any, **options: Any) -> Any:
        """Delete points."""
        method = super().delete
        return self._repeated(lambda: method(*arguments, **{**self.settings.writing, **options}))

    def delete_vectors(self, *arguments: Any, **options: Any) -> Any:
        """Delete vectors of points."""
        method = super().delete_vectors
        return self._repeated(lambda: method(*arguments, **{**self.settings.writing, **options}))

    def _divided(
        self,
        method: Callable[..., Any],
        collection: str,
        points: Any,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        given = options if arguments else {**self.settings.writing, **options}
        try:
            return self._repeated(lambda: method(collection, points, *arguments, **given))
        except Exception as error:
            if not (isinstance(points, list) and len(points) > 1 and is_too_large(error)):
                raise
        middle = len(points) // 2
        self._divided(method, collection, points[:middle], arguments, options)
        return self._divided(method, collection, points[middle:], arguments, options)

    def _repeated(self, write: Callable[[], Any]) -> Any:
        for number in range(self.settings.retries):
            try:
                return write()
            except Exception as error:
                if not is_temporary(error):
                    raise
                pause = _FIRST_PAUSE * 2**number * random.uniform(1, 1.5)
                if isinstance(error, ResourceExhaustedResponse):
                    pause = max(pause, error.retry_after_s)
                logger.warning("a write to %s failed (%s) and is repeated", self._address, message_of(error))
                time.sleep(min(pause, _LONGEST_PAUSE))
        return write()


def _remove_from_errors(secret: str) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """Return a middleware of qdrant-client that masks the key in an error that a proxy sends back with it."""

    def send(request: Any, call_next: Callable[[Any], Any]) -> Any:
        response = call_next(request)
        if response.status_code < 400 or secret.encode() not in response.content:
            return response
        return httpx.Response(
            response.status_code,
            headers={name: value for name, value in response.headers.items() if name.lower() == "retry-after"},
            content=response.content.replace(secret.encode(), b"***"),
            request=request,
        )

    return send
