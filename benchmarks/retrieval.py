"""Hybrid retrieval against LlamaIndex's own, over embedded Qdrant: latency, memory, and agreement of the results.

    python benchmarks/retrieval.py [--check] [--out FILE]

Texts, vectors and queries are synthetic, and query vectors are looked up, so that encoding time is not included.
The peers are `QueryFusionRetriever` over `QdrantVectorStore` and `BM25Retriever`, and `QdrantVectorStore` with
`enable_hybrid` and the BM25 vectors of this package. Each system runs in a separate process. `--check` leaves out
100,000 memories. Exits 1 if a figure misses its target. Needs llama-index-retrievers-bm25.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.schema import BaseNode, NodeWithScore, TextNode
from machine import machine

ASKED = {10_000: 1 / 3, 100_000: 1 / 8}
SYSTEMS = ("ours", "fusion", "qdrant hybrid")
QUERIES = {10_000: 200, 100_000: 60}
DIMENSION, WORDS, TOP_K, DEPTH = 384, 20_000, 10, 20


class LookedUp(BaseEmbedding):
    """The mean of synthetic word vectors."""

    def _vector(self, text: str) -> list[float]:
        return embed([text])[0].tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return KNOWN.get(query) or self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(text)


KNOWN: dict[str, list[float]] = {}
TABLE = np.random.default_rng(0).standard_normal((WORDS, DIMENSION)).astype(np.float32)


def embed(texts: list[str]) -> np.ndarray:
    vectors = np.stack([TABLE[[int(word[1:]) for word in text.split()]].mean(axis=0) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_up(size: int) -> tuple[list[str], list[str]]:
    """Memories of some twenty words with natural frequencies, and queries of some words of one memory each."""
    rng = np.random.default_rng(size)
    share = 1 / np.arange(1, WORDS + 1) ** 0.9
    words = rng.choice(WORDS, p=share / share.sum(), size=(size, 24))
    lengths = rng.integers(8, 25, size)
    texts = [" ".join(f"w{word}" for word in row[:length]) for row, length in zip(words, lengths, strict=True)]
    queries = []
    for text in rng.choice(texts, QUERIES.get(size, 100), replace=False):
        own = text.split()
        queries.append(" ".join(rng.choice(own, min(5, len(own)), replace=False)))
    return texts, queries


def nodes_of(texts: list[str]) -> list[BaseNode]:
    import uuid

    return [TextNode(id_=str(uuid.UUID(int=number)), text=text) for number, text in enumerate(texts)]


def ours(texts: list[str]) -> Callable[[str], list[NodeWithScore]]:
    from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
    from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
    from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

    store = MemoryStore.create({FINETUNED: NamedVector(DIMENSION, "made up")})
    store.upsert(nodes_of(texts), {FINETUNED: embed(texts)})
    return FineTunedHybridRetriever(
        store, embed_model=LookedUp(), similarity_top_k=TOP_K, dense_top_k=DEPTH, sparse_top_k=DEPTH, fallback="off"
    ).retrieve


def _vector_store_index(texts: list[str], **options: Any) -> VectorStoreIndex:
    from llama_index.core import StorageContext
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    store = QdrantVectorStore(client=QdrantClient(":memory:"), collection_name="memories", **options)
    nodes = nodes_of(texts)
    for node, vector in zip(nodes, embed(texts), strict=True):
        node.embedding = vector.tolist()
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=LookedUp())


def fusion(texts: list[str]) -> Callable[[str], list[NodeWithScore]]:
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.retrievers.bm25 import BM25Retriever

    legs = [
        _vector_store_index(texts).as_retriever(similarity_top_k=DEPTH),
        BM25Retriever.from_defaults(nodes=nodes_of(texts), similarity_top_k=DEPTH),
    ]
    return QueryFusionRetriever(
        legs, mode="reciprocal_rerank", num_queries=1, use_async=False, similarity_top_k=TOP_K, llm=MockLLM()
    ).retrieve


def qdrant_hybrid(texts: list[str]) -> Callable[[str], list[NodeWithScore]]:
    from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

    sparse = SparseBM25.of(texts)

    def encoder(vector_of: Callable[[str], Any]) -> Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]:
        def encode(batch: list[str]) -> tuple[list[list[int]], list[list[float]]]:
            vectors = [vector_of(text) for text in batch]
            return [v.indices for v in vectors], [v.values for v in vectors]

        return encode

    index = _vector_store_index(
        texts, enable_hybrid=True, sparse_doc_fn=encoder(sparse.document), sparse_query_fn=encoder(sparse.query)
    )
    return index.as_retriever(
        vector_store_query_mode="hybrid", similarity_top_k=DEPTH, sparse_top_k=DEPTH, hybrid_top_k=TOP_K
    ).retrieve


def measure(system: str, size: int) -> dict[str, Any]:
    """Build a system, run the queries one by one, and return figures and results."""
    texts, queries = made_up(size)
    start = time.perf_counter()
    vectors = embed(queries)
    encode = (time.perf_counter() - start) / len(queries)
    KNOWN.update({query: vector.tolist() for query, vector in zip(queries, vectors, strict=True)})
    start = time.perf_counter()
    retrieve = {"ours": ours, "fusion": fusion, "qdrant hybrid": qdrant_hybrid}[system](texts)
    retrieve(queries[0])  # lazy indexes are built at the first search
    build = time.perf_counter() - start
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        hits = retrieve(query)
        times.append(1000 * (time.perf_counter() - start))
        found.append([hit.node.node_id for hit in hits])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "p50": statistics.median(times), "p95": float(np.percentile(times, 95)), "build": build,
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "encode": 1000 * encode, "found": found,
    }  # fmt: skip


def overlap(one: list[list[str]], other: list[list[str]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(one, other, strict=True)]))


def compare(size: int, rows: list[str], asked: list[tuple[str, bool]]) -> None:
    figures = {}
    for system in SYSTEMS:
        command = [sys.executable, __file__, "--one", system, "--size", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        figures[system] = json.loads(done.stdout.strip().splitlines()[-1])
        f = figures[system]
        agree = overlap(f["found"], figures["ours"]["found"])
        rows.append(
            f"| {size:,} | {system} | {f['p50']:.2f} | {f['p95']:.2f} | {f['encode']:.3f} | {f['memory']:,.0f} "
            f"| {f['build']:.1f} | {agree:.2f} |"
        )
        print(rows[-1], flush=True)
    best = min(figures[system]["p50"] for system in SYSTEMS[1:])
    share = figures["ours"]["p50"] / best
    if size in ASKED:
        asked.append((f"{size:,}: {share:.3f} of the faster peer (asked {ASKED[size]:.3f})", share <= ASKED[size]))
    else:
        print(f"{size:,}: {share:.3f} of the faster peer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="10,000 memories only")
    parser.add_argument("--size", type=int, help="another number of memories, without a target")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument("--one", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(measure(options.one, options.size)))
        return 0
    header = (
        "| memories | system | p50, ms | p95, ms | encoding apart, ms | memory, MiB | build, s | overlap@10 with ours |"
    )
    rows, asked = [header, "|---" * 8 + "|"], []
    print("\n".join(rows))
    for size in [options.size] if options.size else list(ASKED)[: 1 if options.check else None]:
        compare(size, rows, asked)
    line = "; ".join(f"{what}: {'met' if good else 'MISSED'}" for what, good in asked)
    print(line)
    if options.out:
        packages = ("llama-index-core", "llama-index-vector-stores-qdrant", "llama-index-retrievers-bm25",
                    "qdrant-client", "numpy")  # fmt: skip
        head = f"# Hybrid retrieval\n\n{machine(*packages)}; OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', '-')}."
        options.out.write_text("\n\n".join([head, "\n".join(rows), line]) + "\n", encoding="utf-8")
    return 0 if all(good for _, good in asked) else 1


if __name__ == "__main__":
    sys.exit(main())
