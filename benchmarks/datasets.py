"""A million synthetic memories and 200,000 queries: read, clean, split, audit. Prints time and peak memory.

    python benchmarks/datasets.py [--check] [--out FILE]

`--check` runs a tenth of it. Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.split import split_dataset

MEMORIES, QUERIES = 1_000_000, 200_000
SECONDS, GIGABYTES = 90.0, 3.0
VOCABULARY = 80_000


@dataclass(frozen=True)
class Row:
    stage: str
    seconds: float
    peak_gigabytes: float
    outcome: str


def make_folder(folder: Path, memories: int, queries: int) -> None:
    """Write a BEIR folder: words by Zipf's law, 1% repeated memories, one query in ten a near-duplicate."""
    rng = np.random.default_rng(0)
    draw = random.Random(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = sorted({"".join(rng.choice(letters, size=size)) for size in rng.integers(3, 10, size=VOCABULARY)})
    chances = 1 / np.arange(10, len(words) + 10)
    order = rng.permutation(len(words))

    def texts(count: int, low: int, high: int) -> list[str]:
        sizes = rng.integers(low, high, size=count)
        drawn = order[rng.choice(len(words), size=int(sizes.sum()), p=chances / chances.sum())]
        return [" ".join(words[i] for i in part) for part in np.split(drawn, np.cumsum(sizes)[:-1])]

    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for start in range(0, memories, 100_000):
            block = texts(min(100_000, memories - start), 8, 32)
            for n, text in enumerate(block):
                shown = block[draw.randrange(len(block))] if draw.random() < 0.01 else text
                stream.write(json.dumps({"_id": f"m{start + n}", "title": "", "text": shown}) + "\n")
    block = texts(queries, 4, 14)
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as stream:
        for n, text in enumerate(block):
            shown = f"{block[draw.randrange(queries)]} {draw.choice(words[:9])}" if draw.random() < 0.1 else text
            metadata = {"category": f"c{draw.randrange(12)}"}
            stream.write(json.dumps({"_id": f"q{n}", "text": shown, "metadata": metadata}) + "\n")
    with (folder / "qrels.tsv").open("w", encoding="utf-8") as stream:
        stream.write("query-id\tcorpus-id\tscore\n")
        for n in range(queries):
            for memory in {draw.randrange(memories) for _ in range(1 + (draw.random() < 0.2))}:
                stream.write(f"q{n}\tm{memory}\t1\n")


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(folder: Path) -> list[Row]:
    rows = []
    start = time.perf_counter()
    dataset = read_dataset(folder)
    read = time.perf_counter()
    noted = ", ".join(f"{rule} {count:,}" for rule, count in sorted(dataset.ledger.counts.items()))
    outcome = f"{len(dataset.memories):,} memories, {len(dataset.queries):,} queries; {noted}"
    rows.append(Row("read and clean", read - start, peak_gigabytes(), outcome))
    split = split_dataset(dataset)
    done = time.perf_counter()
    outcome = f"{split.components:,} components, largest {split.largest_component:,}; "
    outcome += f"train {len(split.train):,}, dev {len(split.dev):,}, test {len(split.test):,}"
    rows.append(Row("split", done - read, peak_gigabytes(), outcome))
    audit = audit_split(dataset, split)
    outcome = "passed" if audit.passed else "FAILED"
    rows.append(Row("audit", time.perf_counter() - done, peak_gigabytes(), outcome))
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| stage | seconds | peak memory, GB | outcome |", "|---|---:|---:|---|"]
    lines += [f"| {r.stage} | {r.seconds:.1f} | {r.peak_gigabytes:.2f} | {r.outcome} |" for r in rows]
    return "\n".join(lines)


def machine() -> str:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; {versions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="a tenth of the rows")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    options = parser.parse_args()
    share = 10 if options.check else 1
    memories, queries = MEMORIES // share, QUERIES // share
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), memories, queries)
        before = peak_gigabytes()
        rows = measure(Path(folder))
    seconds = rows[0].seconds + rows[1].seconds
    peak = rows[1].peak_gigabytes
    good = seconds < SECONDS and peak < GIGABYTES and rows[2].outcome == "passed"
    for row in rows:
        print(f"{row.stage:<15} {row.seconds:6.1f} s  {row.peak_gigabytes:5.2f} GB  {row.outcome}")
    summary = (
        f"{memories:,} memories and {queries:,} queries read, cleaned and split in {seconds:.1f} s "
        f"(asked: under {SECONDS:g}) with a peak of {peak:.2f} GB (asked: under {GIGABYTES:g}; "
        f"{before:.2f} before reading): {'met' if good else 'MISSED'}"
    )
    print(summary)
    if options.out:
        text = f"# Reading and splitting\n\n{machine()}.\n\n{table(rows)}\n\n{summary[0].upper()}{summary[1:]}.\n"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
