"""TimedRetriever: searches with one retriever, and hands its results on with the seconds that they took."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_ace_finetune.production.comparison import own_bundle


class TimedRetriever(BaseRetriever):
    """Base of retrievers that serve the results of one other retriever; `options` are LlamaIndex's."""

    def __init__(self, system: BaseRetriever, **options: Any) -> None:
        self._system = system
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        results = self._system.retrieve(own_bundle(query_bundle))
        return self._serve(query_bundle, results, time.perf_counter() - start)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        start = time.perf_counter()
        results = await self._system.aretrieve(own_bundle(query_bundle))
        return self._serve(query_bundle, results, time.perf_counter() - start)

    @abstractmethod
    def _serve(self, query: QueryBundle, results: list[NodeWithScore], seconds: float) -> list[NodeWithScore]:
        """Return what is served for the results of the other retriever, which took `seconds`."""
