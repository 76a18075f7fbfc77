"""Serving an exported model against sentence-transformers with torch and LlamaIndex's own components.

    python benchmarks/serving.py --data FOLDER [--check] [--out FILE] [--growth-plot FILE.svg]

FOLDER is a retrieval set with documents of mixed lengths, such as medquad. The base model is exported to each backend
(without the check on dev, since only time matters), then measured: cold start to first result, one query, many
documents, one hybrid query end to end, queries from 8 threads and from asyncio, and SIGTERM during them; then search
among a million vectors (large_index.py), and how time and memory grow up to there (growth.py). Vectors of stored
memories are synthetic, since searching them takes as long; texts and queries are those of the set. `--check` runs less
of everything. Exits 1 if a figure misses its target. Needs the extras onnx and openvino, and llama-index-retrievers-
bm25.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from existing import existing
from findings import Findings
from growth import SIZES, measure_growth, plot
from large_index import EXACT, LIBRARY_LIMIT, OURS, compare
from machine import machine
from timing import quiet, seconds_of

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.runtime import ExportBackend
from llama_index_ace_finetune.encoders.exports.threads import usable_threads
from llama_index_ace_finetune.encoders.exports.token_batches import padding_share, token_batches
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.stores.local_index import EXACT_UP_TO

FORMS = (("onnx", False), ("onnx", True), ("openvino", False))
SHIPPED = "openvino"
QUERY, DOCUMENTS, PEAK, PADDING, COLD, END_TO_END = 1 / 3, 2.5, 0.65, 0.08, 1.5, 1 / 3
DIMENSION, TOP_K, DEPTH = 384, 10, 30
TURN = 40  # queries of a system before the next system's turn
CPU = EncoderSettings(device="cpu")


@dataclass(frozen=True)
class Sizes:
    documents: int
    queries: int
    memories: int
    searches: int
    rounds: int
    concurrent: int
    growth: tuple[int, ...]


FULL = Sizes(documents=1024, queries=200, memories=10_000, searches=200, rounds=3, concurrent=1000, growth=SIZES)
CHECK = Sizes(documents=128, queries=40, memories=1000, searches=30, rounds=1, concurrent=100, growth=(1000, 5000))


def export_base(folder: Path, forms: Sequence[tuple[ExportBackend, bool]] = FORMS) -> dict[str, Path]:
    """One copy of the base model per export, since a folder holds one export per backend."""
    from llama_index_ace_finetune.encoders.exports.write_graphs import write_graphs
    from llama_index_ace_finetune.encoders.identity import identify_model

    models = {}
    for backend, int8 in forms:
        name = f"{backend} int8" if int8 else backend
        model = folder / name.replace(" ", "-")
        shutil.copytree(resolve_checkpoint(DEFAULT_BASE_MODEL), model)
        (model / backend).mkdir()
        with quiet():
            record = write_graphs(
                Encoder.load(model, settings=CPU).model, model / backend, name=name,
                source=identify_model(model).content, backend=backend, int8=int8,
            )  # fmt: skip
        record.write(model / backend)
        models[name] = model
    return models


def median_ms(work: dict[str, Callable[[str], Any]], queries: Sequence[str], *, untimed: int = 10) -> dict[str, float]:
    """Run a few queries of each system in turn, so that a busy moment of the machine affects all.

    Not one query each: idle threads of a system keep spinning for a while, which would slow the next.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for start in range(0, len(queries), TURN):
        turn = queries[start : start + TURN]
        for name, ask in work.items():
            for query in turn[:untimed]:
                ask(query)
            for query in turn:
                begun = time.perf_counter()
                ask(query)
                times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def one_query(forms: dict[str, Encoder], peer: Any, queries: Sequence[str], findings: Findings) -> None:
    asks: dict[str, Callable[[str], Any]] = {"SentenceTransformer, float32": lambda text: peer.encode(text)}
    for name, encoder in forms.items():
        asks[name] = lambda text, encoder=encoder: encoder.encode_queries([text])
    p50 = median_ms(asks, queries)
    base = p50["SentenceTransformer, float32"]
    rows = [f"| {name} | {value:.2f} | {value / base:.3f} |" for name, value in p50.items()]
    findings.section("One query, encoded", "| | p50, ms | of SentenceTransformer |", rows)
    share = p50[SHIPPED] / base
    findings.ask(f"one query by {SHIPPED} {share:.3f} of SentenceTransformer (asked {QUERY:.3f})", share <= QUERY)


def operations(lengths: np.ndarray) -> float:
    """Multiplications and additions of MiniLM's six layers over texts of these token counts."""
    width, inner = DIMENSION, 4 * DIMENSION
    return float((6 * (2 * lengths * (4 * width**2 + 2 * width * inner) + 4 * lengths**2 * width)).sum())


def matrix_peak() -> dict[str, float]:
    """Operations per second of torch's matrix product at the model's size, best of twenty."""
    import torch

    peak = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(4096, 384).to(dtype), torch.randn(384, 1536).to(dtype)
        times = [seconds_of(lambda left=left, right=right: left @ right)[0] for _ in range(20)]
        peak[str(dtype).removeprefix("torch.")] = 2 * 4096 * 384 * 1536 / min(times)
    return peak


def many_documents(forms: dict[str, Encoder], peer: Any, texts: list[str], rounds: int, findings: Findings) -> None:
    encodes: dict[str, Callable[[], Any]] = {
        "SentenceTransformer, float32": lambda: peer.encode(texts, show_progress_bar=False)
    }
    for name, encoder in forms.items():
        encodes[name] = lambda encoder=encoder: encoder.encode_documents(texts)
    best = dict.fromkeys(encodes, float("inf"))
    for _ in range(rounds):
        for name, encode in encodes.items():
            best[name] = min(best[name], seconds_of(encode)[0])
    exported = forms[SHIPPED]
    assert isinstance(exported, ExportedEncoder)
    tokens = exported.tokens(texts, "document")
    work, peak = operations(np.array([len(ids) for ids in tokens], float)), matrix_peak()
    base = best["SentenceTransformer, float32"]
    rows = []
    for name, seconds in best.items():
        precision = forms[name].compute_backend.rpartition("-")[2] if name in forms else "float32"
        share = f"{work / seconds / peak[precision]:.2f}" if precision in peak else "not measured"
        rows.append(
            f"| {name} | {precision} | {len(texts) / seconds:.1f} | {base / seconds:.2f} "
            f"| {work / seconds / 1e9:.0f} | {share} |"
        )
    chunks = [tokens[at : at + Encoder.CHUNK] for at in range(0, len(tokens), Encoder.CHUNK)]
    padding = padding_share([b for chunk in chunks for b in token_batches(chunk, padding_id=0)])
    findings.section(
        f"{len(texts):,} documents of {np.mean([len(ids) for ids in tokens]):.0f} tokens on average",
        "| | computes in | documents/s | times SentenceTransformer | Gop/s | of the matrix peak |",
        rows,
    )
    times, precision = base / best[SHIPPED], exported.compute_backend.rpartition("-")[2]
    share = work / best[SHIPPED] / peak[precision]
    findings.ask(f"documents by {SHIPPED} {times:.2f} x SentenceTransformer (asked {DOCUMENTS})", times >= DOCUMENTS)
    findings.ask(f"{share:.2f} of the {precision} matrix peak (asked {PEAK})", share >= PEAK)
    findings.ask(f"padding {padding:.3f} of all positions (asked {PADDING})", padding < PADDING)


_COLD = {
    "import llama_index.core alone": "import llama_index.core",
    "FineTunedEmbedding": (
        "from llama_index_ace_finetune import FineTunedEmbedding\n"
        "FineTunedEmbedding({model!r}, backend={backend!r}).get_query_embedding('restart the worker')"
    ),
    "without LlamaIndex": (
        "from llama_index_ace_finetune.encoders.exports.load_encoder import load_encoder\n"
        "load_encoder({model!r}, backend={backend!r}).encode_queries(['restart the worker'])"
    ),
}


def cold_start(models: dict[str, Path], rounds: int, findings: Findings) -> None:
    rows = []
    for what, program in _COLD.items():
        for backend in ("torch", "onnx", SHIPPED) if "{model" in program else ("",):
            code = program.format(model=str(models[SHIPPED if backend != "onnx" else "onnx"]), backend=backend)
            command = [sys.executable, "-c", code]
            times = [
                seconds_of(lambda command=command: subprocess.run(command, check=True, capture_output=True))[0]
                for _ in range(rounds + 1)
            ]
            rows.append(f"| {what} | {backend or '-'} | {min(times):.2f} |")
            if (what, backend) == ("FineTunedEmbedding", SHIPPED):
                findings.ask(f"cold start {min(times):.2f} s (asked {COLD})", min(times) < COLD)
    findings.section("From the start of Python to the first vector", "| | backend | best, s |", rows)


def end_to_end(model: Path, texts: list[str], queries: Sequence[str], sizes: Sizes, findings: Findings) -> None:
    from llama_index.core.schema import TextNode

    vectors = np.random.default_rng(0).standard_normal((len(texts), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nodes = [TextNode(id_=f"{number:08d}", text=text) for number, text in enumerate(texts)]
    ours = our_retriever(model, nodes, vectors)
    p50 = median_ms(
        {"LlamaIndex's parts, torch": peer_retrieve(model, texts, vectors), "ours, cache off": ours.retrieve}, queries
    )
    base, own = p50.values()
    rows = [f"| {name} | {value:.1f} | {value / base:.3f} |" for name, value in p50.items()]
    findings.section(f"Hybrid, {len(texts):,} memories, end to end", "| | p50, ms | of the first |", rows)
    findings.ask(f"hybrid end to end {own / base:.3f} of LlamaIndex's parts (asked {END_TO_END:.3f})",
                 own <= END_TO_END * base)  # fmt: skip
    together(ours, [queries[number % len(queries)] for number in range(sizes.concurrent)], findings)
    ours.close()


def our_retriever(model: Path, nodes: list[Any], vectors: np.ndarray) -> Any:
    from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
    from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
    from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
    from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

    embedding = FineTunedEmbedding(str(model), query_cache_size=0)
    embedding.warm_up()
    store = MemoryStore.create({FINETUNED: NamedVector(DIMENSION, embedding.fingerprint)})
    store.upsert(nodes, {FINETUNED: vectors})
    return FineTunedHybridRetriever(
        store, embed_model=embedding, similarity_top_k=TOP_K, dense_top_k=DEPTH, sparse_top_k=DEPTH, fallback="off"
    )


def peer_retrieve(model: Path, texts: list[str], vectors: np.ndarray) -> Callable[[str], Any]:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.bm25 import BM25Retriever
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding

    nodes = [TextNode(text=text, embedding=vector.tolist()) for text, vector in zip(texts, vectors, strict=True)]
    store = QdrantVectorStore(client=QdrantClient(":memory:"), collection_name="memories")
    embedding = FineTunedEmbedding(str(model), backend="torch", device="cpu", query_cache_size=0)
    index = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embedding
    )
    legs = [
        index.as_retriever(similarity_top_k=DEPTH),
        BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=DEPTH),
    ]
    return QueryFusionRetriever(
        legs, mode="reciprocal_rerank", num_queries=1, use_async=False, similarity_top_k=TOP_K, llm=MockLLM()
    ).retrieve


def together(retriever: Any, queries: list[str], findings: Findings) -> None:
    def ids(hits: Any) -> list[str]:
        return [hit.node.node_id for hit in hits]

    async def from_asyncio() -> list[list[str]]:
        return [ids(hits) for hits in await asyncio.gather(*(retriever.aretrieve(query) for query in queries))]

    def from_threads() -> list[list[str]]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda query: ids(retriever.retrieve(query)), queries))

    alone, expected = seconds_of(lambda: [ids(retriever.retrieve(query)) for query in queries])
    rows = [f"| one after the other | {len(queries) / alone:.0f} | |"]
    for name, work in (("8 threads", from_threads), ("asyncio", lambda: asyncio.run(from_asyncio()))):
        taken, found = seconds_of(work)
        wrong = sum(a != b for a, b in zip(found, expected, strict=True))
        rows.append(f"| {name} | {len(queries) / taken:.0f} | {wrong} |")
        findings.ask(f"{name}: {wrong} wrong of {len(queries):,} (asked 0)", wrong == 0)
    findings.section("Queries at the same time, end to end", "| | queries/s | other results than alone |", rows)


def serve_for_ever(model: Path) -> None:
    """Encode from 8 threads until the process is terminated."""
    encoder = ExportedEncoder.open(model, SHIPPED, settings=CPU)
    encoder.encode_queries(["ready"])
    print("ready", flush=True)

    def serve(number: int) -> None:
        while True:
            encoder.encode_queries([f"query {number}"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, range(8)))


def terminate(model: Path, findings: Findings) -> None:
    command = [sys.executable, __file__, "--data", ".", "--serve", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.terminate()
        seconds, (_, errors) = seconds_of(lambda: process.communicate(timeout=30))
    good = process.returncode == -signal.SIGTERM and not errors
    findings.section(
        "SIGTERM among queries from 8 threads", "| ended after, s | said |", [f"| {seconds:.2f} | {errors} |"]
    )
    findings.ask(f"SIGTERM: ended in {seconds:.2f} s, nothing said (asked: no error)", good)


def many_vectors(sizes: Sequence[int], picture: Path | None, findings: Findings) -> None:
    largest = max(sizes)
    figures = compare(largest, "grouped", LIBRARY_LIMIT, findings)
    known = {largest: figures[OURS if largest > EXACT_UP_TO else EXACT]}
    growth = measure_growth(sizes, findings, known)
    if picture:
        plot(growth, picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a retrieval set")
    parser.add_argument("--check", action="store_true", help="fewer of everything")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument("--growth-plot", type=Path, help="plot time and memory by number of memories, .svg or .png")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_for_ever(options.serve)
    folder = existing(options.data)
    from llama_index_ace_finetune.utils.memory import keep_freed_memory

    keep_freed_memory()
    sizes = CHECK if options.check else FULL
    dataset = read_dataset(folder)
    texts = [memory.text for memory in dataset.answers.values()]
    rng = np.random.default_rng(0)
    documents = [texts[row] for row in rng.permutation(len(texts))[: sizes.documents]]
    memories = [texts[row % len(texts)] for row in range(sizes.memories)]
    asked = [query.text for query in dataset.queries.values()]
    queries = [asked[row] for row in rng.permutation(len(asked))[: sizes.queries]]
    findings = Findings()
    with tempfile.TemporaryDirectory() as scratch:
        models = export_base(Path(scratch))
        cold_start(models, sizes.rounds, findings)
        peer = Encoder.load(DEFAULT_BASE_MODEL, settings=CPU).model
        forms = {
            name: ExportedEncoder.open(model, name.split()[0], settings=CPU)  # type: ignore[arg-type]
            for name, model in models.items()
        }
        one_query(forms, peer, queries, findings)
        many_documents(forms, peer, documents, sizes.rounds, findings)
        end_to_end(models[SHIPPED], memories, queries[: sizes.searches], sizes, findings)
        terminate(models[SHIPPED], findings)
    many_vectors(sizes.growth, options.growth_plot, findings)
    packages = ("torch", "sentence-transformers", "onnxruntime", "openvino", "llama-index-core", "qdrant-client")
    return findings.close("Serving", f"{machine(*packages)}; {usable_threads()} threads", options.out)


if __name__ == "__main__":
    sys.exit(main())
