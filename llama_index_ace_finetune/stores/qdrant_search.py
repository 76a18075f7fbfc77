"""Searches that Qdrant itself answers, as a server does."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.connection import told
from llama_index_ace_finetune.stores.nearest import DIGITS
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, node_id_of
from llama_index_ace_finetune.stores.sparse_vectors import BM25, SparseBM25

Hits = list[tuple[str, float]]


class QdrantSearch:
    """Nearest memories and BM25 by the vectors of a collection; hits are node ids and scores, best first, then by id.

    Several requests are one round trip.
    """

    def __init__(self, client: QdrantClient, collection: str, where: str, sparse: SparseBM25 | None) -> None:
        self._client, self._collection, self._where, self._sparse = client, collection, where, sparse

    def dense_request(
        self, name: str, vector: Sequence[float], k: int, only: models.Filter | None
    ) -> models.QueryRequest:
        """Ask for the k nearest vectors of a name."""
        return models.QueryRequest(query=list(vector), using=name, limit=k, filter=only, with_payload=[NODE_ID_FIELD])

    def words_request(self, query: str, k: int, only: models.Filter | None) -> models.QueryRequest | None:
        """Ask for the k best by BM25; None for a query without a term.

        Raises:
            StoreError: if the collection holds no BM25 vectors.
        """
        if self._sparse is None:
            raise StoreError(
                f"The collection {self._collection!r} in {self._where} holds no BM25 vectors; build it with "
                'sparse="server", or search words in this process.'
            )
        vector = self._sparse.query(query)
        if vector is None:
            return None
        return models.QueryRequest(query=vector, using=BM25, limit=k, filter=only, with_payload=[NODE_ID_FIELD])

    def answer(self, requests: Sequence[models.QueryRequest]) -> list[Hits]:
        """Return the hits of each request."""
        answers = told(self._where, self._client.query_batch_points, self._collection, requests)
        hits = [[(node_id_of(point), float(point.score)) for point in answer.points] for answer in answers]
        return [_in_order(found) for found in hits]


def rounded(hits: Hits) -> Hits:
    """Return cosines as the in-process search gives them."""
    return _in_order([(node_id, round(score, DIGITS)) for node_id, score in hits])


def _in_order(hits: Hits) -> Hits:
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))
