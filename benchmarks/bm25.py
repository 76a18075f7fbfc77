"""BM25 against bm25s (numpy back end) and rank-bm25, on synthetic documents whose words follow Zipf's law.

    pip install bm25s
    python benchmarks/bm25.py [--check] [--out FILE]

`--check` runs fewer rounds. Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from rank_bm25 import BM25Plus

from llama_index_ace_finetune.ranking.bm25 import BM25Index

CONDITIONS = (
    "Everybody runs on one thread, with the same BM25 (plus, k1 .9, b .75), English stop words and the English "
    "Snowball stemmer. Rounds alternate and the fastest of each counts. Ours takes a query as text; the others are "
    "given its terms, so their tokenisation costs them nothing. Documents have 10 to 70 words drawn by Zipf's law, "
    "queries up to 8 of one document."
)
SIZES = (10_000, 100_000)
QUERIES, K, VOCABULARY = 500, 10, 100_000
REFERENCE_QUERIES = 10  # rank-bm25 takes a large part of a second per query
# stage -> required speed-up over bm25s at the largest size
ASKED = {"build": 1.0, "single query": 1.0, "batched query": 2.0}


@dataclass(frozen=True)
class Row:
    documents: int
    stage: str
    ours: float
    bm25s: float
    rank_bm25: float | None = None

    @property
    def ratio(self) -> float:
        return self.bm25s / self.ours


def made_up(n_documents: int) -> tuple[list[str], list[str]]:
    """Documents of 10 to 70 words, and queries of up to 8 words of one document each."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(word) for word in letters[rng.integers(0, 26, (VOCABULARY, 7))]])
    # Ranks start at 10: the commonest words of a language are stop words and would not be indexed.
    chances = 1 / np.arange(10, VOCABULARY + 10)
    sizes = rng.integers(10, 71, n_documents)
    drawn = words[rng.choice(VOCABULARY, sizes.sum(), p=chances / chances.sum())]
    documents = [part.tolist() for part in np.split(drawn, np.cumsum(sizes)[:-1])]
    queries = [rng.permutation(documents[row])[:8].tolist() for row in rng.integers(0, n_documents, QUERIES)]
    return [" ".join(document) for document in documents], [" ".join(query) for query in queries]


def build_bm25s(documents: list[str]) -> bm25s.BM25:
    tokens = bm25s.tokenize(documents, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)
    index = bm25s.BM25(k1=0.9, b=0.75, delta=1.0, method="bm25+", backend="numpy")
    index.index(tokens, show_progress=False)
    return index


def fastest(rounds: int, *works: Callable[[], Any]) -> list[float]:
    """Run the functions in turn and return the shortest time of each, in seconds."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def measure(n_documents: int, rounds: int) -> tuple[list[Row], float]:
    """Return the rows of one size, and the fraction of queries for which ours and bm25s give hits of equal scores."""
    documents, queries = made_up(n_documents)
    build = fastest(max(1, rounds // 2), lambda: BM25Index.build(documents), lambda: build_bm25s(documents))
    ours, theirs = BM25Index.build(documents), build_bm25s(documents)
    terms = ours.tokenizer.batch(queries)

    def retrieve(batch: list[list[str]]) -> Any:
        return theirs.retrieve(batch, k=K, show_progress=False, n_threads=0, backend_selection="numpy")

    single = fastest(
        rounds,
        lambda: [ours.search(query, K) for query in queries],
        lambda: [retrieve([query]) for query in terms],
        lambda: [theirs.get_scores(query) for query in terms],
    )
    batched = fastest(rounds, lambda: ours.search_batch(queries, K), lambda: retrieve(terms))
    reference = BM25Plus(ours.tokenizer.batch(documents), k1=0.9, b=0.75)
    few = terms[:REFERENCE_QUERIES]
    slow = fastest(1, lambda: [np.argsort(-reference.get_scores(query))[:K] for query in few])[0]
    rank_bm25 = slow / len(few)
    found, expected = ours.search_batch(queries, K)[1], retrieve(terms).scores
    # If a query has fewer than K matches, bm25s fills up with documents that do not match.
    pairs = [(a[a > -np.inf], b[: np.sum(a > -np.inf)]) for a, b in zip(found, expected, strict=True)]
    same = np.mean([np.allclose(a, b, rtol=1e-4) for a, b in pairs])
    rows = [
        Row(n_documents, "build", build[0], build[1]),
        Row(n_documents, "single query", single[0] / QUERIES, single[1] / QUERIES, rank_bm25),
        Row(n_documents, "single query, bm25s without its top-k", single[0] / QUERIES, single[2] / QUERIES),
        Row(n_documents, "batched query", batched[0] / QUERIES, batched[1] / QUERIES, rank_bm25),
    ]
    return rows, float(same)


def shown(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def table(rows: list[Row]) -> str:
    lines = ["| documents | stage | ours | bm25s | rank-bm25 | bm25s / ours |", "|---:|---|---:|---:|---:|---:|"]
    lines += [
        f"| {r.documents:,} | {r.stage} | {shown(r.ours)} | {shown(r.bm25s)} | {shown(r.rank_bm25)} | {r.ratio:.1f} x |"
        for r in rows
    ]
    return "\n".join(lines)


def machine() -> str:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    names = ("numpy", "scipy", "PyStemmer", "bm25s", "rank-bm25")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {versions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    options = parser.parse_args()
    rows: list[Row] = []
    shares = []
    for size in SIZES:
        measured, same = measure(size, rounds=2 if options.check else 6)
        rows += measured
        shares.append(same)
    ratios = {row.stage: row.ratio for row in rows if row.documents == SIZES[-1]}
    good = all(ratios[stage] >= asked for stage, asked in ASKED.items()) and min(shares) == 1
    figures = ", ".join(f"{stage} {ratios[stage]:.1f} x (asked: {asked:g})" for stage, asked in ASKED.items())
    summary = (
        f"Against bm25s at {SIZES[-1]:,} documents: {figures}; hits of equal scores for {min(shares):.1%} of the "
        f"queries (asked: 100%): {'met' if good else 'MISSED'}"
    )
    print(table(rows))
    print(summary)
    if options.out:
        text = f"# BM25\n\n{machine()}.\n\n{CONDITIONS}\n\n{table(rows)}\n\n{summary}.\n"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
