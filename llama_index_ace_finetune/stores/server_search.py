"""Searches that Qdrant itself answers, as a server does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.ann.flat import DIGITS
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, node_id_of
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.document_frequencies import DocumentFrequencies
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import BM25, SparseBM25

Hits = list[tuple[str, float]]
# Equal scores are cut by id, which takes hits beyond the k-th to see: a few, and many where those are all equal.
_BEYOND, _FAR_BEYOND = 8, 1000
_SAME = 2e-6  # float32 sums of the same numbers differ by less, relative to their size


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the k hits that are wanted of it; `shift` is added to every score."""

    request: models.QueryRequest
    k: int
    shift: float = 0.0

    def deeper(self) -> models.QueryRequest:
        """Ask for so many that equal scores at the cut are seen."""
        return self.request.model_copy(update={"limit": self.k + _FAR_BEYOND})


class QdrantSearch:
    """Nearest memories and BM25 by the vectors of a collection; hits are node ids and scores, best first, then by id.

    Several questions are one round trip, and another one for each whose equal scores reach over the cut.
    """

    def __init__(self, client: QdrantClient, collection: str, where: str, sparse: SparseBM25 | None) -> None:
        self._client, self._collection, self._where, self._sparse = client, collection, where, sparse
        self._frequencies = DocumentFrequencies(client, collection, where, vector=BM25)

    def reread(self) -> None:
        """Count the terms of the collection again before the next search by words."""
        self._frequencies.reread()

    def dense(self, name: str, vector: Sequence[float], k: int, only: models.Filter | None) -> Question:
        """Ask for the k nearest vectors of a name."""
        return self._question(list(vector), name, k, only)

    def words(self, query: str, k: int, only: models.Filter | None) -> Question | None:
        """Ask for the k best by BM25; None for a query without a term.

        Raises:
            StoreError: if the collection holds no BM25 vectors, or cannot be read.
        """
        if self._sparse is None:
            raise StoreError(
                f"The collection {self._collection!r} in {self._where} holds no BM25 vectors; build it with "
                'sparse="server", or search words in this process.'
            )
        terms = self._sparse.query_terms(query)
        if not terms:
            return None
        if self._sparse.server_idf:
            counts = models.SparseVector(indices=list(terms), values=[float(count) for count in terms.values()])
            return self._question(counts, BM25, k, only)
        vector, shift = self._sparse.query(terms, *self._frequencies.of(list(terms)))
        return self._question(vector, BM25, k, only, shift)

    def answer(self, questions: Sequence[Question]) -> list[Hits]:
        """Return the hits of each question."""
        found = self._send([question.request for question in questions])
        return [self._cut(question, hits) for question, hits in zip(questions, found, strict=True)]

    def _question(
        self,
        vector: list[float] | models.SparseVector,
        name: str,
        k: int,
        only: models.Filter | None,
        shift: float = 0.0,
    ) -> Question:
        request = models.QueryRequest(
            query=vector, using=name, limit=k + _BEYOND, filter=only, with_payload=[NODE_ID_FIELD]
        )
        return Question(request, k, shift)

    def _send(self, requests: Sequence[models.QueryRequest]) -> list[Hits]:
        answers = told(self._where, self._client.query_batch_points, self._collection, requests)
        if len(answers) != len(requests):
            raise StoreError(
                f"The index in {self._where} gave {len(answers)} answers to {len(requests)} searches; "
                "check the server, and whatever stands between."
            )
        return [[(node_id_of(point), float(point.score)) for point in answer.points] for answer in answers]

    def _cut(self, question: Question, hits: Hits) -> Hits:
        k = question.k
        if k > 0 and len(hits) == k + _BEYOND and _same(hits[k - 1][1], hits[-1][1]):
            (hits,) = self._send([question.deeper()])
        return [(node_id, score + question.shift) for node_id, score in in_order(hits)[:k]]


def rounded(hits: Hits) -> Hits:
    """Return cosines as the in-process search gives them."""
    return sorted(((node_id, round(score, DIGITS)) for node_id, score in hits), key=lambda hit: (-hit[1], hit[0]))


def in_order(hits: Hits) -> Hits:
    """Return hits best first; those that differ by no more than rounding get one score, and go by id."""
    ordered: Hits = []
    alike: list[str] = []
    best = last = 0.0
    for node_id, score in sorted(hits, key=lambda hit: -hit[1]):
        if alike and not _same(last, score):
            ordered += [(name, best) for name in sorted(alike)]
            alike = []
        best = best if alike else score
        last = score
        alike.append(node_id)
    return ordered + [(name, best) for name in sorted(alike)]


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(1.0, abs(one))
