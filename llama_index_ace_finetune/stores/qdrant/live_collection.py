"""LiveCollection: an existing Qdrant collection as a source of memories and mining candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import StoreError, first_line
from llama_index_ace_finetune.stores.qdrant.connection import qdrant_key
from llama_index_ace_finetune.stores.qdrant.point_memory import memory_of_point
from llama_index_ace_finetune.utils.redact import without_passwords

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

DEFAULT_COLLECTION = "ace_memories_hybrid"
DEFAULT_EMBEDDING_MODEL = "text-embedding-qwen3-embedding-8b"
_DENSE_NAMES = ("dense", "text-dense", "finetuned", "baseline")
_SECONDS = 30.0
_TEXT_LIMIT = 8000


class LiveCollection:
    """Reads a collection whose points hold LlamaIndex nodes, or texts (see `memory_of_point`).

    With an `embedding_url` (an OpenAI-compatible `/v1/embeddings` endpoint) it also searches the collection, as the
    existing retrieval does. The server's API key is read from the environment variable QDRANT_API_KEY.
    """

    def __init__(
        self,
        url: str,
        collection: str = DEFAULT_COLLECTION,
        *,
        embedding_url: str | None = None,
        embedding_model: str | None = None,
        client: QdrantClient | None = None,
    ) -> None:
        from qdrant_client import QdrantClient

        self.url = url
        self.collection = collection
        self.embedding_url = embedding_url
        self.embedding_model = embedding_model or DEFAULT_EMBEDDING_MODEL
        self._client = client or QdrantClient(
            url=url, api_key=qdrant_key(), timeout=int(_SECONDS), check_compatibility=False
        )

    def memories(self) -> list[Memory]:
        """Return every memory of the collection.

        Raises:
            StoreError: if the server cannot be reached or has no such collection, or no point has a text.
        """
        found: list[Memory] = []
        offset: Any = None
        count = 0
        while True:
            try:
                points, offset = self._client.scroll(self.collection, limit=1000, offset=offset, with_payload=True)
            except Exception as error:
                raise self._unreachable(error) from error
            count += len(points)
            for point in points:
                memory = memory_of_point(point)
                if memory is not None and memory.text.strip():
                    found.append(memory)
            if offset is None:
                break
        if count and not found:
            raise StoreError(
                f"None of the {count} points of the collection {self.collection!r} has a text in its payload; name "
                "another collection, or give the texts with --memories."
            )
        return found

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Return texts and scores of the k best points for a query, embedded by the endpoint's model.

        Points without a text are left out.
        """
        return [(text, score) for text, score in self.ranking(query, k) if text is not None]

    def ranking(self, query: str, k: int) -> list[tuple[str | None, float]]:
        """Return texts (None for a point without one) and scores of the k best points, best first."""
        if self.embedding_url is None:
            return []
        vector = self._embed(query)
        try:
            params = self._client.get_collection(self.collection).config.params.vectors
            names = list(params) if isinstance(params, dict) else []
            using = next((name for name in _DENSE_NAMES if name in names), names[0] if names else None)
            points = self._client.query_points(
                self.collection, query=vector, using=using, limit=k, with_payload=True
            ).points
        except Exception as error:
            raise self._unreachable(error) from error
        memories = ((memory_of_point(point), float(point.score)) for point in points)
        return [(memory.text if memory else None, score) for memory, score in memories]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _embed(self, text: str) -> list[float]:
        import httpx

        assert self.embedding_url is not None
        address = self.embedding_url.rstrip("/") + "/v1/embeddings"
        body = {"model": self.embedding_model, "input": text[:_TEXT_LIMIT]}
        try:
            reply = httpx.post(address, json=body, timeout=_SECONDS)
            reply.raise_for_status()
            return [float(value) for value in reply.json()["data"][0]["embedding"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            raise StoreError(
                f"The embedding endpoint {without_passwords(address)!r} gave no vector ({first_line(error)}); "
                "check the address and the model name."
            ) from error

    def _unreachable(self, error: Exception) -> StoreError:
        return StoreError(
            f"The collection {self.collection!r} at {without_passwords(self.url)!r} cannot be read "
            f"({first_line(error)}); check the address, the collection's name and that the server is running."
        )
