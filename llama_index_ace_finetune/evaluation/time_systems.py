"""Encoding and searching one query at a time, timed apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.latency import Latency, SystemLatency
from llama_index_ace_finetune.evaluation.systems import EncodedSet
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.fusion import reciprocal_rank_fusion

_RESULTS = 10
_LEG_DEPTH = 30  # what the hybrid retriever takes from each leg for 10 results


def time_systems(
    queries: Sequence[str], index: BM25Index, encoders: Mapping[str, Encoder], encoded: Mapping[str, EncodedSet]
) -> dict[str, SystemLatency]:
    """Return what BM25, each model, and each model with BM25 need for 10 results, per system's name.

    Args:
        queries: texts that are timed one by one; nothing is timed without one.
        index: over the corpus.
        encoders: the models by name.
        encoded: the corpus as vectors of each, and as many query vectors as there are queries or more.
    """
    lexical = Latency.of(lambda query: index.search(query, _RESULTS), queries)
    latencies = {"BM25": SystemLatency(encode=None, search=lexical)}
    for name, encoder in encoders.items():
        vectors = encoded[name]
        numbers = range(len(queries))

        def encode(query: str, encoder: Encoder = encoder) -> object:
            return encoder.encode([query], role="query")

        def search(number: int, depth: int = _RESULTS, vectors: EncodedSet = vectors) -> list[int]:
            rows, _ = dense_top_k(vectors.queries[number : number + 1], vectors.corpus, depth)
            return [int(row) for row in rows[0]]

        def fuse(number: int, vectors: EncodedSet = vectors) -> object:
            rows, _ = index.search(queries[number], _LEG_DEPTH)
            legs = [search(number, _LEG_DEPTH, vectors), [int(row) for row in rows]]
            return reciprocal_rank_fusion(legs, limit=_RESULTS)

        time_to_encode = Latency.of(encode, queries)
        latencies[name] = SystemLatency(time_to_encode, Latency.of(search, numbers))
        latencies[f"{name} + BM25"] = SystemLatency(time_to_encode, Latency.of(fuse, numbers))
    return {name: one for name, one in latencies.items() if one.search is not None}
