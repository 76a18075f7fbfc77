"""What the query log costs: the time of a query, and the event loop under 64 concurrent queries."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from findings import Findings
from llama_index.core.schema import TextNode
from sets import load

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever, LogSettings, QueryLog
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

MEMORIES, CONCURRENT, TURN = 10_000, 64, 10
COST, STALL = 1.05, 0.05


def measure_logging(settings: Any, findings: Findings) -> None:
    texts = [memory.text for memory in load(settings.data, "nl2bash").memories.values()][:MEMORIES]
    queries = [query.text for query in load(settings.data, "nl2bash").queries.values()]
    # Searching synthetic vectors takes as long as searching those of the texts.
    vectors = np.random.default_rng(0).standard_normal((len(texts), 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nodes = [TextNode(id_=f"{number:08d}", text=text) for number, text in enumerate(texts)]
    embedding = FineTunedEmbedding(DEFAULT_BASE_MODEL, query_cache_size=0)
    embedding.warm_up()
    store = MemoryStore.create({FINETUNED: NamedVector(384, embedding.fingerprint)})
    store.upsert(nodes, {FINETUNED: vectors})

    # As docs/how-to/replace-a-retriever.md advises for an asynchronous application.
    gc.collect()
    gc.freeze()

    def retriever(log: QueryLog | None) -> FineTunedHybridRetriever:
        return FineTunedHybridRetriever(store, embed_model=embedding, fallback="off", query_log=log)

    with tempfile.TemporaryDirectory() as folder:
        log = QueryLog.open(Path(folder) / "queries.db", LogSettings(keep_days=None))
        plain, logged = retriever(None), retriever(log)
        one_query(plain, logged, queries[: 200 if settings.check else 1000], findings)
        for name, served in (("without a log", plain), ("with a log", logged)):
            concurrent(name, served, log, queries, 10.0 if settings.check else 60.0, findings)
        log.close()
        store.close()


def one_query(plain: Any, logged: Any, queries: list[str], findings: Findings) -> None:
    """The same queries without and with a log, turn by turn; a busy moment of the machine affects both, or one turn.

    A turn has several queries, since what the log writes in the background takes its time from later ones.
    """
    times: dict[bool, list[list[float]]] = {False: [], True: []}
    for query in queries[:20]:
        plain.retrieve(query), logged.retrieve(query)
    for start in range(0, len(queries), TURN):
        order = (False, True) if (start // TURN) % 2 else (True, False)
        for with_log in order:
            turn = []
            for query in queries[start : start + TURN]:
                begun = time.perf_counter()
                (logged if with_log else plain).retrieve(query)
                turn.append(1000 * (time.perf_counter() - begun))
            times[with_log].append(turn)
    p50 = {with_log: float(np.median(times[with_log])) for with_log in (False, True)}
    totals = {with_log: np.sum(times[with_log], axis=1) for with_log in (False, True)}
    ratios = totals[True] / totals[False]
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    rows = [
        f"| without | {p50[False]:.2f} | |",
        f"| with | {p50[True]:.2f} | {ratio:.3f} ({low:.3f} to {high:.3f}) |",
    ]
    header = f"| log | p50, ms | time of {TURN} queries with / without, median (quartiles) |"
    findings.section(f"One hybrid query, {MEMORIES:,} memories", header, rows)
    findings.ask(f"a logged query takes {ratio:.3f} (asked {COST:.2f})", ratio <= COST)


def concurrent(
    name: str, retriever: Any, log: QueryLog, queries: list[str], seconds: float, findings: Findings
) -> None:
    before = log.written

    async def ask(number: int, until: float) -> int:
        asked = 0
        while time.perf_counter() < until:
            await retriever.aretrieve(queries[(number + asked * CONCURRENT) % len(queries)])
            asked += 1
        return asked

    async def stalls(until: float) -> list[float]:
        late = []
        while time.perf_counter() < until:
            begun = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - begun - 0.005)
        return late

    async def both() -> tuple[int, list[float]]:
        until = time.perf_counter() + seconds
        late, *asked = await asyncio.gather(stalls(until), *(ask(number, until) for number in range(CONCURRENT)))
        return sum(asked), late

    asked, late = asyncio.run(both())
    log.flush(30)
    written = log.written - before
    worst, usual = 1000 * max(late), 1000 * float(np.percentile(late, 99))
    rows = [f"| {name} | {asked:,} | {asked / seconds:.0f} | {usual:.1f} | {worst:.1f} | {written:,} |"]
    header = "| retriever | queries | queries/s | loop stall p99, ms | worst, ms | records written |"
    findings.section(f"{CONCURRENT} concurrent queries for {seconds:.0f} s", header, rows)
    if name == "with a log":
        lost = asked - written
        findings.ask(f"{lost} of {asked:,} records lost (asked 0)", lost == 0 and not log.dropped)
        findings.ask(f"worst loop stall {worst:.1f} ms (asked {1000 * STALL:.0f})", worst < 1000 * STALL)
