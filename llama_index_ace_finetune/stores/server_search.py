"""ServerSearch: dense and sparse searches by Qdrant itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.ranking.dense import DIGITS
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, node_id_of
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.document_frequencies import DocumentFrequencies
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25

Hits = list[tuple[str, float]]
# Ties at the k-th hit are ordered by id, so more hits are requested: a few, and many more if those all tie.
_EXTRA, _MANY_EXTRA = 8, 1000
# Without quantization a server ignores these.
_RESCORED = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))
_TOLERANCE = 2e-6  # relative; float32 sums of the same numbers in another order differ by less


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A Qdrant request, and the number k of hits to return; `shift` is added to every score."""

    request: models.QueryRequest
    k: int
    shift: float = 0.0

    def deeper(self) -> models.QueryRequest:
        """Return the request with a limit high enough to see all ties at the k-th hit."""
        return self.request.model_copy(update={"limit": self.k + _MANY_EXTRA})


class ServerSearch:
    """Dense and BM25 search over the vectors of a collection; hits are node ids and scores, best first, ties by id.

    Several requests take one round trip, plus one for each request with ties beyond the k-th hit.
    """

    def __init__(self, client: QdrantClient, collection: str, location: str, sparse: SparseBM25 | None) -> None:
        self._client, self._collection, self._location, self._sparse = client, collection, location, sparse
        self._frequencies = DocumentFrequencies(client, collection, location, vector=BM25)

    def refresh(self) -> None:
        """Count the document frequencies again before the next sparse search."""
        self._frequencies.refresh()

    def dense(self, name: str, vector: Sequence[float], k: int, query_filter: models.Filter | None) -> SearchRequest:
        """Return a request for the k nearest vectors of a name; quantised ones are re-scored by the original ones."""
        return self._request(list(vector), name, k, query_filter, params=_RESCORED)

    def sparse(self, query: str, k: int, query_filter: models.Filter | None) -> SearchRequest | None:
        """Return a request for the k best memories by BM25; None for a query without terms.

        Raises:
            StoreError: if the collection holds no BM25 vectors, or cannot be read.
        """
        if self._sparse is None:
            raise StoreError(
                f"The collection {self._collection!r} in {self._location} holds no BM25 vectors; build it with "
                'sparse="server", or search with BM25 in this process.'
            )
        terms = self._sparse.query_terms(query)
        if not terms:
            return None
        if self._sparse.server_idf:
            counts = models.SparseVector(indices=list(terms), values=[float(count) for count in terms.values()])
            return self._request(counts, BM25, k, query_filter)
        vector, shift = self._sparse.query(terms, *self._frequencies.of(list(terms)))
        return self._request(vector, BM25, k, query_filter, shift)

    def run(self, requests: Sequence[SearchRequest]) -> list[Hits]:
        """Return the hits of each request."""
        found = self._send([request.request for request in requests])
        return [self._top_k(request, hits) for request, hits in zip(requests, found, strict=True)]

    def _request(
        self,
        vector: list[float] | models.SparseVector,
        name: str,
        k: int,
        query_filter: models.Filter | None,
        shift: float = 0.0,
        params: models.SearchParams | None = None,
    ) -> SearchRequest:
        request = models.QueryRequest(
            query=vector, using=name, limit=k + _EXTRA, filter=query_filter, with_payload=[NODE_ID_FIELD], params=params
        )
        return SearchRequest(request, k, shift)

    def _send(self, requests: Sequence[models.QueryRequest]) -> list[Hits]:
        answers = call_qdrant(self._location, self._client.query_batch_points, self._collection, requests)
        if len(answers) != len(requests):
            raise StoreError(
                f"The index in {self._location} gave {len(answers)} answers to {len(requests)} searches; "
                "check the server, and any proxy before it."
            )
        return [[(node_id_of(point), float(point.score)) for point in answer.points] for answer in answers]

    def _top_k(self, request: SearchRequest, hits: Hits) -> Hits:
        k = request.k
        if k > 0 and len(hits) == k + _EXTRA and _equal(hits[k - 1][1], hits[-1][1]):
            (hits,) = self._send([request.deeper()])
        return [(node_id, score + request.shift) for node_id, score in sort_hits(hits)[:k]]


def round_cosines(hits: Hits) -> Hits:
    """Return hits with cosines rounded as in the in-process search, best first, ties by id."""
    return sorted(((node_id, round(score, DIGITS)) for node_id, score in hits), key=lambda hit: (-hit[1], hit[0]))


def sort_hits(hits: Hits) -> Hits:
    """Return hits best first; scores within the rounding error are made equal, and tie by id."""
    ordered: Hits = []
    alike: list[str] = []
    top = last = 0.0
    for node_id, score in sorted(hits, key=lambda hit: -hit[1]):
        if alike and not _equal(last, score):
            ordered += [(name, top) for name in sorted(alike)]
            alike = []
        top = top if alike else score
        last = score
        alike.append(node_id)
    return ordered + [(name, top) for name in sorted(alike)]


def _equal(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one))
