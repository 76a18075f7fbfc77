"""Search among many vectors in one process: exact search, our inverted file (IVF), and libraries.

    python benchmarks/large_index.py [--size N] [--kind grouped|gaussian] [--out FILE]

Vectors are synthetic (see made_up_vectors.py) and come in batches. Each system builds and serves in separate processes;
memory is the growth of the serving process after its imports, once every mapped page was touched and the queries were
run. The libraries usearch, faiss-cpu and qdrant-edge-py are measured if they are installed and the size is at most
`--library-limit`: building their graphs takes long. Exits 1 if our own figures miss their targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from machine import machine
from made_up_vectors import DIMENSION, KINDS, batches, queries_for

from llama_index_ace_finetune.stores.ann.flat import FlatIndex
from llama_index_ace_finetune.stores.ann.ivf import IVFIndex
from llama_index_ace_finetune.stores.ann.ivf_builder import IVFBuilder

ASKED_FROM, MEMORY, P50, RECALL, K = 1_000_000, 1.3, 15.0, 0.98, 10
QUERIES, SLOW_QUERIES, LIBRARY_LIMIT = 200, 20, 100_000
EXACT, OURS, EVERY_ROW = "float32, all compared", "inverted file", "8 bits, all compared"
Search = Callable[[np.ndarray], list[int]]


def resident() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def stored(folder: Path) -> np.ndarray:
    return np.memmap(folder / "made_up.float32", np.float32, "r").reshape(-1, DIMENSION)


def in_batches(folder: Path) -> Any:
    vectors = stored(folder)
    for start in range(0, len(vectors), 4096):
        yield start, np.array(vectors[start : start + 4096])


# --- systems: how each is built in a folder, and how it is opened -----------------------------------------------


def build_nothing(_: Path) -> None:
    pass


def open_float32(folder: Path) -> Search:
    nearest = FlatIndex(DIMENSION)
    for start, rows in in_batches(folder):
        nearest.upsert(range(start, start + len(rows)), [str(start + at) for at in range(len(rows))], rows)
    return lambda query: [int(name) for name, _ in nearest.search(query[None], K)[0]]


def build_ours(folder: Path) -> None:
    target = folder / "ours"
    target.mkdir()
    with IVFBuilder(target, DIMENSION) as builder:
        for start, rows in in_batches(folder):
            builder.add(range(start, start + len(rows)), [str(start + at) for at in range(len(rows))], rows)


def open_ours(folder: Path) -> Search:
    index = IVFIndex(folder / "ours")
    id_map = index.id_map
    for map_array in (index._codes, index._signs, index._rows, id_map._keys, id_map._order, id_map._ends, id_map._ids):
        np.count_nonzero(np.asarray(map_array).view(np.uint8))  # touches every page
    return lambda query: [int(name) for name, _ in index.search(query, K)]


def open_every_row(folder: Path) -> Search:
    index = IVFIndex(folder / "ours")
    index.info = dataclasses.replace(index.info, probes=index.info.count, kept=index.info.count)
    return lambda query: [int(name) for name, _ in index.search(query, K)]


def build_usearch(folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=DIMENSION, metric="ip", dtype="bf16", connectivity=16, expansion_add=128, expansion_search=128)
    for start, rows in in_batches(folder):
        index.add(np.arange(start, start + len(rows)), rows)
    index.save(str(folder / "usearch"))


def open_usearch(folder: Path) -> Search:
    from usearch.index import Index

    index = Index.restore(str(folder / "usearch"))
    index.expansion_search = 128
    return lambda query: index.search(query, K).keys.tolist()


def build_faiss(folder: Path) -> None:
    import faiss

    vectors = stored(folder)
    lists = round(len(vectors) ** 0.5)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(DIMENSION), DIMENSION, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    rng = np.random.default_rng(0)
    index.train(vectors[np.sort(rng.choice(len(vectors), min(len(vectors), 100 * lists), replace=False))])
    for _, rows in in_batches(folder):
        index.add(rows)
    faiss.write_index(index, str(folder / "faiss"))


def open_faiss(folder: Path) -> Search:
    import faiss

    index = faiss.read_index(str(folder / "faiss"))
    index.nprobe = IVFIndex(folder / "ours").info.probes
    return lambda query: index.search(query[None], K)[1][0].tolist()


def build_edge(folder: Path) -> None:
    from qdrant_edge import Distance, EdgeConfig, EdgeShard, EdgeVectorParams, Point, UpdateOperation

    (folder / "edge").mkdir()
    shard = EdgeShard.create(str(folder / "edge"), EdgeConfig(vectors=EdgeVectorParams(DIMENSION, Distance.Cosine)))
    for start, rows in in_batches(folder):
        points = [Point(start + at, row.tolist(), None) for at, row in enumerate(rows)]
        shard.update(UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.close()


def open_edge(folder: Path) -> Search:
    from qdrant_edge import EdgeShard, Query, QueryRequest

    shard = EdgeShard.load(str(folder / "edge"))
    return lambda query: [
        int(point.id) for point in shard.query(QueryRequest(limit=K, query=Query.Nearest(query.tolist())))
    ]


SYSTEMS: dict[str, tuple[str | None, Callable[[Path], None], Callable[[Path], Search], int]] = {
    EXACT: (None, build_nothing, open_float32, 4),
    OURS: (None, build_ours, open_ours, 1),
    EVERY_ROW: (None, build_nothing, open_every_row, 1),
    "usearch, HNSW, bf16": ("usearch", build_usearch, open_usearch, 2),
    "faiss, IVF, 8 bits": ("faiss", build_faiss, open_faiss, 1),
    "qdrant-edge, HNSW": ("qdrant_edge", build_edge, open_edge, 4),
}


def serve(system: str, folder: Path) -> dict[str, Any]:
    queries = np.load(folder / "queries.npy")
    _ = np.ones((64, DIMENSION), np.float32) @ queries.T  # threads and their memory
    before = resident()
    search = SYSTEMS[system][2](folder)
    slow = system in (EXACT, EVERY_ROW) and len(stored(folder)) > 100_000
    times, found = [], []
    for query in [queries[0], *(queries[:SLOW_QUERIES] if slow else queries)]:
        start = time.perf_counter()
        found.append(search(query))
        times.append(1000 * (time.perf_counter() - start))
    return {
        "p50": statistics.median(times[1:]), "p95": float(np.percentile(times[1:], 95)),
        "memory": resident() - before, "found": found[1:],
    }  # fmt: skip


def build(system: str, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    SYSTEMS[system][1](folder)
    return {"build": time.perf_counter() - start, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def write_vectors(folder: Path, kind: str, size: int) -> None:
    """Write the vectors, the queries, and their nearest rows by exact search in float32."""
    queries = queries_for(kind, size, QUERIES)
    best, rows = np.full((QUERIES, 0), 0, np.float32), np.full((QUERIES, 0), 0, np.int64)
    start = 0
    with (folder / "made_up.float32").open("wb") as ivf:
        for batch in batches(kind, size):
            ivf.write(batch.tobytes())
            best = np.concatenate([best, queries @ batch.T], axis=1)
            here = np.broadcast_to(np.arange(start, start + len(batch)), (QUERIES, len(batch)))
            rows = np.concatenate([rows, here], axis=1)
            kept = np.argpartition(-best, K - 1, axis=1)[:, :K]
            best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
            start += len(batch)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "nearest.npy", rows)


def apart(step: str, system: str, folder: Path) -> dict[str, Any]:
    """Run one step in a separate process."""
    command = [sys.executable, __file__, "--step", step, "--system", system, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure(size: int, kind: str, systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Build and serve each system; return the figures by system."""
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_vectors(folder, kind, size)
        nearest = np.load(folder / "nearest.npy")
        for system in systems:
            own = apart("build", system, folder) | apart("serve", system, folder)
            pairs = list(zip(own.pop("found"), nearest.tolist(), strict=False))
            own["recall"] = float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))
            own["share"] = own["memory"] * 2**20 / (size * DIMENSION * SYSTEMS[system][3])
            if system == OURS:
                info = IVFIndex(folder / "ours").info
                own["lists"], own["kept"] = info.probes, info.kept
            print(f"{size:,} {kind}, {system}: p50 {own['p50']:.2f} ms, recall {own['recall']:.4f}", flush=True)
            figures[system] = own
    return figures


def compare(size: int, kind: str, library_limit: int, findings: Findings) -> dict[str, dict[str, Any]]:
    packages = {system: package for system, (package, *_) in SYSTEMS.items()}
    chosen = [system for system, package in packages.items()
              if package is None or (size <= library_limit and find_spec(package) is not None)]  # fmt: skip
    figures = measure(size, kind, chosen)
    rows = [
        f"| {system} | {f['p50']:.2f} | {f['p95']:.2f} | {f['recall']:.4f} | {f['memory']:,.0f} | {f['share']:.2f} "
        f"| {f['build']:,.1f} | {f['peak']:,.0f} |"
        for system, f in figures.items()
    ]
    header = f"| | p50, ms | p95, ms | recall@{K} | memory, MiB | of the vectors | build, s | build, peak MiB |"
    own = figures[OURS]
    lists = f"{own['lists']} of {round(size**0.5):,} lists read, {own['kept']:,} rows scored"
    findings.section(f"{size:,} {kind} vectors of {DIMENSION} dimensions, {lists}", header, rows)
    if kind == "grouped" and size >= ASKED_FROM:
        findings.ask(f"{size:,} vectors: p50 {own['p50']:.2f} ms (asked {P50:g})", own["p50"] < P50)
        findings.ask(f"recall@{K} {own['recall']:.4f} (asked {RECALL})", own["recall"] >= RECALL)
        findings.ask(f"memory {own['share']:.2f} of the 8-bit vectors (asked {MEMORY})", own["share"] <= MEMORY)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument(
        "--library-limit", type=int, default=LIBRARY_LIMIT, help="largest number of vectors that libraries index"
    )
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument("--step", choices=("build", "serve"), help=argparse.SUPPRESS)
    parser.add_argument("--system", choices=list(SYSTEMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps({"build": build, "serve": serve}[options.step](options.system, options.folder)))
        return 0
    findings = Findings()
    compare(options.size, options.kind, options.library_limit, findings)
    threads = f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', '-')}"
    return findings.close("Many vectors", f"{machine('numpy')}; {threads}", options.out)


if __name__ == "__main__":
    sys.exit(main())
