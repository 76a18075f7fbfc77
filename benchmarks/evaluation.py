"""Metrics against ranx, pytrec_eval and sentence-transformers; the bootstrap; search in a large corpus.

    pip install ranx
    python benchmarks/evaluation.py [--check] [--out FILE]

For Linux, as memory is read from /proc. ranx is optional. `--check` runs fewer rounds and
searches a tenth of the corpus. Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.evaluation.metrics.measures import MAP, MRR, NDCG, Recall, Success, measure_rankings
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels
from llama_index_ace_finetune.evaluation.stats.comparison import compare_systems
from llama_index_ace_finetune.ranking.dense import dense_top_k

CONDITIONS = (
    "Measures: 20,000 queries with 100 hits and 1 to 3 right answers each; Success@1, Success@5, Recall@10, MRR@10, "
    "nDCG@10 and MAP@100 and their means. Everybody is given hits and judgements in its own form, so making that form "
    "costs nothing; ours checks the rankings each time. ranx is compiled beforehand and may use all cores. "
    "pytrec_eval gives dictionaries per query, whose means are taken here, and cannot cut MRR, so its MRR is not "
    "compared. sentence-transformers gives no value per query, and computes precision beside recall. Rounds alternate "
    "and the fastest of each counts. Bootstrap: intervals and randomisation p-values of 8 systems against one. "
    "Search: vectors of 384 dimensions, top 100, in a process of its own; memory is the peak less the vectors and "
    "less what Python and the packages held."
)
QUERIES, DEPTH, CORPUS = 20_000, 100, 100_000
SYSTEMS, BOOTSTRAP_QUERIES, RESAMPLES = 8, 10_000, 10_000
SEARCH_QUERIES, SEARCH_CORPUS, DIMENSIONS = 2_000, 1_000_000, 384
MAX_BOOTSTRAP, MAX_SEARCH_GB = 20.0, 2.0
MEASURES = (Success(1), Success(5), Recall(10), MRR(10), NDCG(10), MAP(100))
OURS, RANX, PYTREC_EVAL, SENTENCE_TRANSFORMERS = "ours", "ranx", "pytrec_eval", "sentence-transformers"

Work = Callable[[], dict[str, float]]


def made_up() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Rankings with falling scores, and positives of which about half are among the first hits."""
    rng = np.random.default_rng(0)
    # A start and a step give distinct rows without drawing a permutation of the corpus per query.
    start, step = rng.integers(0, CORPUS, (QUERIES, 1)), rng.integers(1, CORPUS // DEPTH, (QUERIES, 1))
    rankings = ((start + step * np.arange(DEPTH)) % CORPUS).astype(np.int32)
    # Whole numbers: pytrec_eval keeps scores as float32, where random ones sometimes tie and swap.
    scores = np.broadcast_to(np.arange(DEPTH, 0, -1.0), rankings.shape)
    relevant = []
    for row in rankings:
        near = row[np.minimum(rng.geometric(0.15, 3) - 1, DEPTH - 1)]
        far = rng.integers(0, CORPUS, 3)
        relevant.append(np.unique(np.where(rng.random(3) < 0.5, near, far)[: rng.integers(1, 4)]))
    return rankings, scores, relevant


def ours(rankings: np.ndarray, relevant: list[np.ndarray]) -> Work:
    qrels = Qrels.of(relevant)
    return lambda: {name: value.mean() for name, value in measure_rankings(MEASURES, rankings, qrels).items()}


def pytrec_eval_work(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> Work:
    import pytrec_eval

    # trec_eval has no cut-off for the reciprocal rank, so it is compared with MRR@10 in time only.
    names = {"success_1": "Success@1", "success_5": "Success@5", "recall_10": "Recall@10", "recip_rank": "MRR"}
    names |= {"ndcg_cut_10": "nDCG@10", "map_cut_100": "MAP@100"}
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {"success.1,5", "recall.10", "recip_rank", "ndcg_cut.10", "map_cut.100"}
    )

    def work() -> dict[str, float]:
        values = evaluator.evaluate(run).values()
        return {ours: float(np.mean([value[theirs] for value in values])) for theirs, ours in names.items()}

    return work


def ranx_work(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> Work:
    from ranx import Qrels, Run, evaluate

    names = {"hit_rate@1": "Success@1", "hit_rate@5": "Success@5", "recall@10": "Recall@10", "mrr@10": "MRR@10"}
    names |= {"ndcg@10": "nDCG@10", "map@100": "MAP@100"}
    their_qrels, their_run = Qrels(qrels), Run(run)

    def work() -> dict[str, float]:
        values: Any = evaluate(their_qrels, their_run, list(names), make_comparable=False)
        return {ours: float(values[theirs]) for theirs, ours in names.items()}

    work()  # compiles and sorts
    return work


def sentence_transformers_work(rankings: np.ndarray, scores: np.ndarray, relevant: list[np.ndarray]) -> Work:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    evaluator = InformationRetrievalEvaluator(
        {str(number): "" for number in range(QUERIES)},
        {},
        {str(number): {str(row) for row in rows} for number, rows in enumerate(relevant)},
        accuracy_at_k=[1, 5], precision_recall_at_k=[10], mrr_at_k=[10], ndcg_at_k=[10], map_at_k=[100],
    )  # fmt: skip
    hits: list[object] = [
        [{"corpus_id": str(row), "score": score} for row, score in zip(rows, values, strict=True)]
        for rows, values in zip(rankings.tolist(), scores.tolist(), strict=True)
    ]

    def work() -> dict[str, float]:
        found = evaluator.compute_metrics(hits)
        return {
            "Success@1": found["accuracy@k"][1], "Success@5": found["accuracy@k"][5],
            "Recall@10": float(found["recall@k"][10]), "MRR@10": found["mrr@k"][10],
            "nDCG@10": float(found["ndcg@k"][10]), "MAP@100": float(found["map@k"][100]),
        }  # fmt: skip

    return work


def compare_measures(rounds: int) -> tuple[dict[str, float], float, str]:
    """Return seconds per library, the largest difference of any mean from ours, and why a library was left out."""
    rankings, scores, relevant = made_up()
    qrels = {str(number): {str(row): 1 for row in rows} for number, rows in enumerate(relevant)}
    run = {
        str(number): {str(row): score for row, score in zip(rows, values, strict=True)}
        for number, (rows, values) in enumerate(zip(rankings.tolist(), scores.tolist(), strict=True))
    }
    works = {
        OURS: ours(rankings, relevant),
        PYTREC_EVAL: pytrec_eval_work(run, qrels),
        SENTENCE_TRANSFORMERS: sentence_transformers_work(rankings, scores, relevant),
    }
    skipped = ""
    try:
        works[RANX] = ranx_work(run, qrels)
    except ImportError as error:
        skipped = f"not installed ({error})"
    seconds = dict.fromkeys(works, float("inf"))
    means: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            means[name] = work()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    apart = [
        abs(value - means[OURS][measure])
        for found in means.values()
        for measure, value in found.items()
        if measure in means[OURS]
    ]
    return seconds, max(apart), skipped


def time_bootstrap() -> float:
    rng = np.random.default_rng(0)
    base = rng.random(BOOTSTRAP_QUERIES)
    values = {"base": base} | {f"system {n}": base + rng.normal(0.01, 0.3, len(base)) for n in range(SYSTEMS)}
    start = time.perf_counter()
    compare_systems(values, base="base", resamples=RESAMPLES)
    return time.perf_counter() - start


def peak_memory() -> int:
    """Peak memory in bytes. Not ru_maxrss, which in a new process starts at the peak of its parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def search(corpus: int) -> tuple[float, float]:
    """Return seconds, and the peak memory in GB beyond the vectors and the memory used before them."""
    before = peak_memory()
    rng = np.random.default_rng(0)
    vectors = np.empty((corpus + SEARCH_QUERIES, DIMENSIONS), np.float32)
    for start in range(0, len(vectors), 10_000):
        part = vectors[start : start + 10_000]
        rng.standard_normal(dtype=np.float32, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    start_time = time.perf_counter()
    dense_top_k(vectors[corpus:], vectors[:corpus], DEPTH)
    seconds = time.perf_counter() - start_time
    return seconds, (peak_memory() - before - vectors.nbytes) / 1e9


def search_apart(corpus: int) -> tuple[float, float]:
    """`search` in a separate process, whose peak no earlier stage has raised."""
    command = [sys.executable, __file__, "--search", str(corpus)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[0]), float(output[1])


def machine() -> str:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    versions = []
    for name in ("numpy", "scipy", "pytrec-eval-terrier", "sentence-transformers", "ranx", "numba"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    listed = ", ".join(versions)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {listed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fewer rounds, a tenth of the corpus")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    parser.add_argument("--search", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # This folder's datasets.py would shadow the package of that name, which sentence-transformers needs.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    if options.search:
        print(*search(options.search))
        return 0
    load = f"Load average before the first stage: {os.getloadavg()[0]:.1f}."
    seconds, apart, skipped = compare_measures(rounds=2 if options.check else 6)
    bootstrap = time_bootstrap()
    corpus = SEARCH_CORPUS // 10 if options.check else SEARCH_CORPUS
    search_seconds, search_gb = search_apart(corpus)

    lines = ["| stage | who | time | times ours | memory |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| measures, {QUERIES:,} queries x {DEPTH} hits | {name} | {taken * 1e3:,.1f} ms "
        f"| {taken / seconds[OURS]:.1f} | |"
        for name, taken in sorted(seconds.items(), key=lambda item: item[1])
    ]
    if skipped:
        lines.append(f"| measures | {RANX} | {skipped} | | |")
    lines += [
        f"| bootstrap and test, {RESAMPLES:,} x {BOOTSTRAP_QUERIES:,} queries x {SYSTEMS} systems | {OURS} "
        f"| {bootstrap:.2f} s | | |",
        f"| search, {SEARCH_QUERIES:,} queries x {corpus:,} vectors | {OURS} | {search_seconds:.1f} s | "
        f"| {search_gb:.2f} GB beyond the vectors |",
    ]
    fastest = min((name for name in seconds if name != OURS), key=lambda name: seconds[name])
    ratio = seconds[fastest] / seconds[OURS]
    good = ratio >= 1 and apart < 1e-9 and bootstrap < MAX_BOOTSTRAP and search_gb < MAX_SEARCH_GB
    summary = (
        f"Measures {ratio:.1f} x as fast as the fastest other, {fastest} (asked: 1), means equal to {apart:.0e} "
        f"(asked: 1e-9); bootstrap {bootstrap:.2f} s (asked: under {MAX_BOOTSTRAP:g}); search in {corpus:,} vectors "
        f"{search_gb:.2f} GB beyond them (asked: under {MAX_SEARCH_GB:g}): {'met' if good else 'MISSED'}"
    )
    print("\n".join(lines))
    print(load)
    print(summary)
    if options.out:
        text = f"# Evaluation\n\n{machine()}. {load}\n\n{CONDITIONS}\n\n" + "\n".join(lines) + f"\n\n{summary}.\n"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
