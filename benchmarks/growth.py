"""How search time and memory grow with the number of memories, and a plot of it.

    python benchmarks/growth.py --plot FILE.svg [--sizes 1000,10000,100000,1000000]

Three systems, each in a separate process: our embedded store and LlamaIndex's `QdrantVectorStore`, both over embedded
Qdrant and from a query vector to ten nodes, and only our search index, from a query vector to ten ids. The first two
are measured to `STORES_UP_TO`: embedded Qdrant holds every point as Python objects and compares all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from large_index import EXACT, OURS, K, measure, resident
from machine import machine
from made_up_vectors import DIMENSION, batches, queries_for

from llama_index_ace_finetune.stores.local_index import EXACT_UP_TO

SIZES = (1_000, 10_000, 100_000, 1_000_000)
STORES_UP_TO, QUERIES = 100_000, 50
STORE, PEER, INDEX = "our embedded store", "LlamaIndex QdrantVectorStore", "our index alone"
KIND = "grouped"


def nodes(size: int) -> list[Any]:
    from llama_index.core.schema import TextNode

    return [
        TextNode(id_=str(UUID(int=row)), text=f"What was learned in the case of number {row}.") for row in range(size)
    ]


def our_store(size: int) -> Callable[[np.ndarray], Any]:
    from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
    from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

    store = MemoryStore.create({FINETUNED: NamedVector(DIMENSION, "made up")})
    held = nodes(size)
    for start, rows in _numbered(size):
        store.upsert(held[start : start + len(rows)], {FINETUNED: rows})
    return lambda query: store.get([name for name, _ in store.search(FINETUNED, query, K)])


def peer(size: int) -> Callable[[np.ndarray], Any]:
    from llama_index.core.vector_stores.types import VectorStoreQuery
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    store = QdrantVectorStore(client=QdrantClient(":memory:"), collection_name="memories")
    held = nodes(size)
    for start, rows in _numbered(size):
        part = held[start : start + len(rows)]
        for node, row in zip(part, rows, strict=True):
            node.embedding = row.tolist()
        store.add(part)
        for node in part:
            node.embedding = None
    return lambda query: store.query(VectorStoreQuery(query_embedding=query.tolist(), similarity_top_k=K)).nodes


def _numbered(size: int) -> Any:
    start = 0
    for rows in batches(KIND, size):
        yield start, rows
        start += len(rows)


def one(system: str, size: int) -> dict[str, float]:
    """Build a store, query it, and return figures."""
    import llama_index.core.vector_stores.types
    import llama_index.vector_stores.qdrant  # noqa: F401

    import llama_index_ace_finetune.stores.memory_store  # noqa: F401

    queries = queries_for(KIND, size, QUERIES)
    _ = np.ones((64, DIMENSION), np.float32) @ queries.T
    before = resident()
    search = {STORE: our_store, PEER: peer}[system](size)
    search(queries[0])
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - start))
    return {"p50": statistics.median(times), "memory": resident() - before}


def measure_growth(
    sizes: Sequence[int], findings: Findings, known: Mapping[int, Mapping[str, float]] | None = None
) -> dict[str, dict[int, Mapping[str, float]]]:
    """Return p50 and memory by system and size; `known` has figures of the index at some sizes."""
    figures: dict[str, dict[int, Mapping[str, float]]] = {STORE: {}, PEER: {}, INDEX: {}}
    for size in sizes:
        system = EXACT if size <= EXACT_UP_TO else OURS
        figures[INDEX][size] = (known or {}).get(size) or measure(size, KIND, [system])[system]
        for name in (STORE, PEER) if size <= STORES_UP_TO else ():
            command = [sys.executable, __file__, "--one", name, "--sizes", str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            figures[name][size] = json.loads(done.stdout.strip().splitlines()[-1])
    rows = [
        f"| {size:,} | {name} | {own[size]['p50']:.2f} | {own[size]['memory']:,.0f} |"
        for size in sizes
        for name, own in figures.items()
        if size in own
    ]
    findings.section("Growth", "| memories | | p50, ms | memory, MiB |", rows)
    return figures


def plot(figures: Mapping[str, Mapping[int, Mapping[str, float]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    styles = {STORE: ("#0b6bcb", "o", "-"), PEER: ("#c2410c", "s", "-"), INDEX: ("#0b6bcb", "^", "--")}
    with pyplot.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}):
        figure, panes = pyplot.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
        for pane, key, title in zip(panes, ("p50", "memory"), ("p50 of a search, ms", "memory, MiB"), strict=True):
            for name, own in figures.items():
                color, marker, line = styles[name]
                values = [figures_of[key] for figures_of in own.values()]
                pane.plot(list(own), values, color=color, marker=marker, linestyle=line, label=name)
            pane.set(xscale="log", yscale="log", xlabel="memories", title=title)
            pane.grid(alpha=0.25)
            for side in ("top", "right"):
                pane.spines[side].set_visible(False)
        panes[0].legend(frameon=False, fontsize=8)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of memories, comma-separated")
    parser.add_argument("--plot", type=Path, help="file for the plot, .svg or .png")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    parser.add_argument("--one", choices=(STORE, PEER), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.one:
        print(json.dumps(one(options.one, sizes[0])))
        return 0
    findings = Findings()
    figures = measure_growth(sizes, findings)
    if options.plot:
        plot(figures, options.plot)
    return findings.close("Growth", machine("numpy", "qdrant-client", "llama-index-core"), options.out)


if __name__ == "__main__":
    sys.exit(main())
