"""A retriever of another package with a fixed ranking, which can fail or wait."""

from __future__ import annotations

import time

from helpers.small_stores import node
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle


class FixedRetriever(BaseRetriever):
    def __init__(self, ids: str, *, failure: Exception | None = None, seconds: float = 0.0) -> None:
        self.ids, self.failure, self.seconds, self.calls = ids, failure, seconds, 0
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.calls += 1
        query_bundle.embedding = [1.0]  # as VectorIndexRetriever does
        time.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return [NodeWithScore(node=node(one), score=1 / rank) for rank, one in enumerate(self.ids, 1)]
