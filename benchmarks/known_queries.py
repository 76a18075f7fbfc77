"""Known queries as further vectors of their memories: new and known memories, bytes, and time.

    python benchmarks/known_queries.py --data SETS [--sets NAMES] [--check] [--out FILE] [--kept FILE]

Accuracy: the untuned default model, dense only and in the system that `evaluate_systems` selects without late
interaction; the train queries of the default split are the known ones. The test queries ask for other memories, the
part `test_known` for the same. Cost: 10,000 memories with 5 known queries each, synthetic vectors of 384 dimensions.
`--check` measures the cost only. Exits 1 if new memories lose more than .005 of R@1, or if known ones, which have three
or more known queries, gain less than .10.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from kept import Kept
from llama_index.core.schema import TextNode
from machine import machine
from options import parser_of_sets
from sets import load

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.retrievers.legs.known_query_search import KnownQuerySearch
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector

MEMORIES, EACH, DIMENSION, TIMED, DEPTH = 10_000, 5, 384, 200, 100
ALLOWED_LOSS, ASKED_GAIN = 0.005, 0.1
MEASURES = ("Success@1", "MRR@10")


def cost() -> str:
    draw = np.random.default_rng(0)
    vectors = unit_rows(draw.standard_normal((MEMORIES * (1 + EACH), DIMENSION)).astype(np.float32))
    nodes = [TextNode(id_=f"m{row}", text=f"memory {row}") for row in range(MEMORIES)]
    queries = unit_rows(draw.standard_normal((TIMED, DIMENSION)).astype(np.float32))
    with MemoryStore.create({FINETUNED: NamedVector(DIMENSION, "f")}) as store, tempfile.TemporaryDirectory() as folder:
        store.upsert(nodes, {FINETUNED: vectors[:MEMORIES]})
        texts = tuple(text_hash(node.text) for node in nodes for _ in range(EACH))
        start = time.perf_counter()
        StoredKnownQueries("f", vectors[MEMORIES:], texts).save(Path(folder))
        written = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        start = time.perf_counter()
        known = KnownQuerySearch(store, StoredKnownQueries.load(Path(folder)))
        hits = store.search_batch(FINETUNED, queries[:1], DEPTH)[0]
        known.merge(hits, queries[0], DEPTH, offset=0.2)
        opened = time.perf_counter() - start
        dense, merged = [], []
        for query in queries:
            start = time.perf_counter()
            hits = store.search_batch(FINETUNED, query[None], DEPTH)[0]
            between = time.perf_counter()
            known.merge(hits, query, DEPTH, offset=0.2)
            dense.append(between - start)
            merged.append(time.perf_counter() - between)
    return (
        f"| {MEMORIES:,} | {MEMORIES * EACH:,} | {size / 2**20:.1f} | {written:.2f} | {opened:.2f} | "
        f"{1000 * np.median(dense):.1f} | {1000 * np.median(merged):.1f} |"
    )


def accuracy(data: Path, name: str) -> tuple[str, bool, bool]:
    dataset = load(data, name)
    split, model = split_dataset(dataset), Encoder.load(DEFAULT_BASE_MODEL)
    if not split.test_known:
        return f"| {name} | 0 | too few memories with three queries | | | | | |", True, True
    texts = tuple(dataset.queries[query].text for query in split.train)
    known = KnownQueries(texts, tuple(tuple(sorted(dataset.relevant(query))) for query in split.train))
    found = evaluate_systems(
        dataset, test=split.test, dev=split.dev, test_known=split.test_known, dev_known=split.dev_known,
        known_queries=known, base=model, tuned=model, timed_queries=0, late_interaction=False, windows={},
    )  # fmt: skip
    choice = found.untuned_choice
    without = choice.candidate.structure.system_name(choice.row)
    names = (without, choice.system_name)
    assert found.known is not None
    new = [found.mean(one, "Success@1") for one in names]
    cells = [f"{new[0]:.3f} -> {new[1]:.3f}"]
    cells.append(" -> ".join(f"{found.mean(one, 'MRR@10'):.3f}" for one in names))
    cells += [" -> ".join(f"{found.known.mean(one, measure):.3f}" for one in names) for measure in MEASURES]
    offset = "none" if choice.offset is None else f"{choice.offset:g}"
    row = f"| {name} | {len(split.train)} | {without} | {offset} | {' | '.join(cells)} |"
    gain = found.known.mean(names[1], "Success@1") - found.known.mean(names[0], "Success@1")
    return row, new[1] >= new[0] - ALLOWED_LOSS, gain >= ASKED_GAIN


HEADER = (
    "| set | known queries | system | offset | R@1, new memories | MRR@10, new memories | R@1, known memories | "
    "MRR@10, known memories |"
)


def main() -> int:
    options = parser_of_sets(__doc__, sets="ace,nl2bash,scifact,locomo").parse_args()
    findings, rows, figures = Findings(), [], Kept(options.kept)
    for name in [] if options.check else options.sets.split(","):
        row, kept, gained = figures.measure(name, lambda name=name: accuracy(options.data, name))
        print(row, flush=True)
        rows.append(row)
        findings.ask(f"{name}: new memories lose at most {ALLOWED_LOSS:g} of R@1", kept)
        findings.ask(f"{name}: known memories gain at least {ASKED_GAIN:g} of R@1", gained)
    if rows:
        findings.section("With and without known queries, untuned model", HEADER, rows)
    columns = ("memories", "known queries", "MB on disk", "s to write", "s to the first search", "dense leg, ms")
    findings.section("Cost", f"| {' | '.join(columns)} | known queries, ms |", [cost()])
    return findings.close("Known queries", machine("numpy", "torch", "qdrant-client"), options.out)


if __name__ == "__main__":
    sys.exit(main())
