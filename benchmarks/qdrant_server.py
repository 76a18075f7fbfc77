"""A collection on a Qdrant server: upload, latency, agreement with an embedded store, and outages.

    python benchmarks/qdrant_server.py [--url URL] [--check] [--out FILE]

Without `--url` (QDRANT_API_KEY is its key) a local server is started: that of the tests, Qdrant's own engine behind a
small HTTP server in Python, which is slower than Qdrant. Texts, vectors and queries are synthetic, and query vectors
are looked up, so that encoding time is not included. An outage is a connection that is cut and restored. `--check`
leaves out 100,000 memories. Exits 1 if a figure misses its target. Needs qdrant-edge-py if there is no server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from llama_index.core.schema import BaseNode
from machine import machine
from qdrant_client import QdrantClient
from retrieval import KNOWN, LookedUp, embed, made_up, nodes_of
from tcp_proxy import TcpProxy

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

SIZES, CHECKED, DIMENSION, QUERIES, TOP_K = (10_000, 100_000), 10_000, 384, 60, 10
SEARCHES: dict[str, dict[str, Any]] = {
    "dense": {"mode": "dense"},
    "dense + BM25 of the process, RRF": {},
    "dense + BM25 of the server, RRF": {"sparse": "server"},
    "dense + BM25 of the server, convex": {"sparse": "server", "fusion": "convex"},
}
OUTAGE_WRITES, SHORT_OUTAGE, LONG_OUTAGE, OUTAGE_QUERIES = 5_000, 1.0, 6.0, 20
OUTSIDE, AGREE, LONGEST_ERROR = 0.5, 0.99, 1.0
TESTS = Path(__file__).resolve().parent.parent / "tests"


@dataclass
class RequestTimes:
    """A middleware of qdrant-client: the seconds of each request."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, request: Any, send: Any) -> Any:
        start = time.perf_counter()
        try:
            return send(request)
        finally:
            self.seconds.append(time.perf_counter() - start)


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the address of the server; a local one runs in its own process."""
    if url is not None:
        yield url
        return
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        if not address:
            raise SystemExit("No server: give --url, or install qdrant-edge-py.")
        yield address
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def serve() -> None:
    """Run the tests' server until stdin ends."""
    sys.path.insert(0, str(TESTS))
    from helpers.edge_server import EdgeServer

    with EdgeServer() as local:
        print(local.url, flush=True)
        sys.stdin.read()


def new_store(nodes: list[BaseNode], url: str | None = None) -> MemoryStore:
    """Create an empty collection with dense and BM25 vectors."""
    name = f"benchmark-{uuid.uuid4().hex[:8]}"
    texts = [node.get_content() for node in nodes]
    vectors = {FINETUNED: NamedVector(DIMENSION, "made up")}
    return MemoryStore.create(vectors, url=url, collection=name, sparse=SparseBM25.of(texts))


def retriever_over(store: MemoryStore, **options: Any) -> FineTunedHybridRetriever:
    return FineTunedHybridRetriever(store, embed_model=LookedUp(), similarity_top_k=TOP_K, fallback="off", **options)


def memories_and_queries(size: int) -> tuple[list[BaseNode], list[str]]:
    """Return memories, and queries whose vectors are then looked up."""
    texts, queries = made_up(size)
    queries = queries[:QUERIES]
    KNOWN.update({query: vector.tolist() for query, vector in zip(queries, embed(queries), strict=True)})
    return nodes_of(texts), queries


def vectors_of(nodes: list[BaseNode]) -> dict[str, np.ndarray]:
    return {FINETUNED: embed([node.get_content() for node in nodes])}


def compare_with_embedded(size: int, url: str, findings: Findings) -> None:
    """Upload memories, and search them with each kind of search, here and on the server."""
    nodes, queries = memories_and_queries(size)
    vectors, rows, times = vectors_of(nodes), [], RequestTimes()
    with new_store(nodes) as embedded, new_store(nodes, url) as stored:
        embedded.upsert(nodes, vectors)
        start = time.perf_counter()
        stored.upsert(nodes, vectors)
        upload = time.perf_counter() - start
        stored.client.http.client.add_middleware(times)
        for title, options in SEARCHES.items():
            here = retriever_over(embedded, **options | {"sparse": "in_process"})
            there = retriever_over(stored, **options)
            rows.append(compare(title, size, here, there, times, queries, findings))
        findings.section(
            f"{size:,} memories, uploaded in {upload:.0f} s ({size / upload:,.0f} per second)",
            "| search | embedded, p50, ms | server, p50, ms | p95, ms | requests, p50, ms | number | same results |",
            rows,
        )
        count = len(stored)
        findings.ask(f"{size:,}: {count:,} memories on the server", count == size)
        stored.client.delete_collection(stored.collection)


def compare(
    title: str,
    size: int,
    here: FineTunedHybridRetriever,
    there: FineTunedHybridRetriever,
    times: RequestTimes,
    queries: list[str],
    findings: Findings,
) -> str:
    """Return the row of a kind of search."""
    there.retrieve(queries[0])  # BM25 of the process reads the texts, and of the server its document frequencies
    here.retrieve(queries[0])
    local, whole, asked, requests, same = [], [], [], [], []
    for query in queries:
        start = time.perf_counter()
        expected = [hit.node.node_id for hit in here.retrieve(query)]
        local.append(1000 * (time.perf_counter() - start))
        times.seconds.clear()
        start = time.perf_counter()
        found = [hit.node.node_id for hit in there.retrieve(query)]
        whole.append(1000 * (time.perf_counter() - start))
        asked.append(1000 * sum(times.seconds))
        requests.append(len(times.seconds))
        same.append(len(set(found) & set(expected)) / max(1, len(expected)))
    outside = float(np.median(np.subtract(whole, asked)) / np.median(whole))
    findings.ask(
        f"{size:,}, {title}: {outside:.2f} of the time outside of requests (asked {OUTSIDE})", outside <= OUTSIDE
    )
    findings.ask(f"{np.mean(same):.3f} of the results as embedded (asked {AGREE})", float(np.mean(same)) >= AGREE)
    return (
        f"| {title} | {statistics.median(local):.2f} | {statistics.median(whole):.2f} | {np.percentile(whole, 95):.2f} "
        f"| {statistics.median(asked):.2f} | {statistics.median(requests):g} | {np.mean(same):.3f} |"
    )


def upload_in_outage(seconds: float, proxy: TcpProxy, stored: MemoryStore, nodes: list[BaseNode]) -> tuple[str, float]:
    """Upload while the connection is cut for some seconds; return what happened and the seconds it took."""
    vectors = vectors_of(nodes)
    before, start = len(stored), time.perf_counter()

    def cut() -> None:
        while direct.count(stored.collection, exact=True).count <= before + len(nodes) // 4:
            time.sleep(0.02)
        proxy.cut()
        time.sleep(seconds)
        proxy.restore()

    direct = QdrantClient(url=proxy.target_url, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False)
    outage = threading.Thread(target=cut)
    outage.start()
    try:
        stored.upsert(nodes, vectors)
        happened = "repeated its writes"
    except StoreError as error:
        outage.join()
        print(f"{error}", flush=True)
        stored.upsert(nodes, vectors)
        happened = "raised StoreError, and was called again"
    took = time.perf_counter() - start
    outage.join()
    direct.close()
    return happened, took


def survive_outages(url: str, findings: Findings) -> None:
    """Cut the connection in an upload, briefly and for long, and in the middle of searches."""
    nodes, queries = memories_and_queries(CHECKED)
    parts = [nodes[:OUTAGE_WRITES], nodes[OUTAGE_WRITES : 2 * OUTAGE_WRITES]]
    parsed, rows = urlsplit(url), []
    assert parsed.hostname is not None
    with closing(TcpProxy(parsed.hostname, parsed.port or 6333)) as proxy, new_store(nodes, proxy.url) as stored:
        for seconds, part, expected in zip((SHORT_OUTAGE, LONG_OUTAGE), parts, (1, 2), strict=True):
            happened, took = upload_in_outage(seconds, proxy, stored, part)
            count, wanted = len(stored), expected * OUTAGE_WRITES
            written = count - wanted + len(part)
            rows.append(f"| {len(part):,} | {seconds:g} | {happened} | {took:.1f} | {written:,} |")
            findings.ask(f"{count:,} memories after {expected} outages (asked {wanted:,})", count == wanted)
        findings.section(
            "Uploads in an outage",
            "| memories | seconds without a server | the upload | seconds in all | written |",
            rows,
        )
        search_in_outage(proxy, retriever_over(stored, sparse="server"), queries, findings)
        stored.client.delete_collection(stored.collection)


def search_in_outage(
    proxy: TcpProxy, retriever: FineTunedHybridRetriever, queries: list[str], findings: Findings
) -> None:
    """Search before, in and after an outage."""
    before = {query: [hit.node.node_id for hit in retriever.retrieve(query)] for query in queries[:OUTAGE_QUERIES]}
    proxy.cut()
    errors, times = [], []
    for query in before:
        start = time.perf_counter()
        try:
            retriever.retrieve(query)
        except StoreError as error:
            errors.append(str(error))
        times.append(time.perf_counter() - start)
    proxy.restore()
    start = time.perf_counter()
    after = {query: [hit.node.node_id for hit in retriever.retrieve(query)] for query in before}
    recovery = (time.perf_counter() - start) / len(after)
    findings.section(
        "Searches without a server",
        "| searches | StoreError | longest, ms | after the outage, ms per search | same results as before |",
        [f"| {len(before)} | {len(errors)} | {1000 * max(times):.1f} | {1000 * recovery:.1f} "
         f"| {sum(after[query] == before[query] for query in before)} |"],
    )  # fmt: skip
    print(*errors[:1], flush=True)
    raised = len(errors)
    findings.ask(f"{raised} of {len(before)} searches without a server raise StoreError", raised == len(before))
    findings.ask(f"the longest took {max(times):.2f} s (asked {LONGEST_ERROR:g})", max(times) <= LONGEST_ERROR)
    findings.ask("the same results after the outage", after == before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--url", help="address of a Qdrant server (default: a local one)")
    parser.add_argument("--check", action="store_true", help="10,000 memories only")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    findings = Findings()
    with server(options.url) as url:
        for size in SIZES[: 1 if options.check else None]:
            compare_with_embedded(size, url, findings)
        survive_outages(url, findings)
    versions = machine(
        "qdrant-client", "llama-index-vector-stores-qdrant", "numpy", *([] if options.url else ["qdrant-edge-py"])
    )
    return findings.close("A collection on a Qdrant server", versions, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
