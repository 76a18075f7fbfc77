"""The served system against the base model, the best untuned system, and a tuned hybrid of dense and BM25 by RRF; and
whether a retriever serves what was evaluated.

    python benchmarks/served_system.py --data FOLDER [--runs FOLDER] [--earlier FOLDER] [--check] [--out FILE]

FOLDER holds retrieval sets in BEIR layout (and `ace`, a test suite). Each set and seed is a run with the defaults, kept
in `--runs`, where a later call finds it. `--earlier` holds runs of an earlier version, one folder per set, to compare
with what that version served. `--check` takes one small set and trains for a minute. Exits 1 if a figure misses its
target.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import library_first  # noqa: F401
import numpy as np
from existing import existing
from findings import Findings
from machine import machine
from numpy.typing import NDArray
from sets import load

from llama_index_ace_finetune.datasets.splits.manifest import Split
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery, per_query_path
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.pipeline.evaluate import evaluate
from llama_index_ace_finetune.pipeline.run import run
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.run_folder import MANIFEST, RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.utils.memory import keep_freed_memory

SETS = ("ace", "msvc_errors", "locomo", "nl2bash", "medquad", "scifact", "cosqa")
FEW_QUERIES = 1000  # of train: sets below are measured with three seeds
UNTUNED = ("BM25", "base", "base + BM25", "base + BM25, dev weights", "base + BM25, convex")
RRF = "tuned + BM25, dev weights"
SUCCESS, MRR = "Success@1", "MRR@10"
OVER_BASE, OVER_UNTUNED, OVER_EARLIER = 0.60, 0.20, 0.10
COMPARED_QUERIES = 500


@dataclass(frozen=True)
class Measured:
    """Test values of one set and seed; per-query values float [n]."""

    name: str
    seed: int
    served: str
    values: dict[str, dict[str, NDArray[np.float64]]]  # by column of the table and measure
    groups: list[str]


def finished_run(folder: Path, name: str, seed: int, runs: Path, minutes: float) -> RunFolder:
    """Return the run of a set, made now unless it is there."""
    out = runs / f"{name}-{seed}"
    if (out / MANIFEST).is_file():
        return RunFolder.open(out)
    suite = folder / name / "enhanced_test_suite.json"
    result = run(
        RunSettings(
            data=suite if suite.is_file() else folder / name,
            memories=folder / name / "memory_inventory.json" if suite.is_file() else None,
            out=out,
            training=TrainingConfig(budget_minutes=minutes, seed=seed),
        )
    )
    return result.folder


def measure(name: str, seed: int, made: RunFolder, earlier: Path | None) -> Measured:
    """Read what a run measured on its test queries."""
    found = PerQuery.read(per_query_path(made.report))
    served = made.read_manifest()["serving"]["system"]
    best = max(UNTUNED, key=lambda system: found.values[system][MRR].mean())
    columns = {"base": "base", "best untuned": best, "served": served, "tuned RRF": RRF}
    values = {column: {of: found.values[system][of] for of in (SUCCESS, MRR)} for column, system in columns.items()}
    if earlier is not None:
        old = RunFolder.open(earlier / name)
        system = old.read_manifest()["serving"]["system"]
        per_query = PerQuery.read(per_query_path(old.report))
        rows = [per_query.query_ids.index(query) for query in found.query_ids]
        values["tuned RRF"] = {of: per_query.values[system][of][rows] for of in (SUCCESS, MRR)}
    return Measured(name, seed, served, values, list(found.groups))


def compare_quality(measured: list[Measured], findings: Findings) -> None:
    """Write the table, and ask for the mean gains and that no set loses."""
    rows = []
    for one in measured:
        means = [
            f"{one.values[column][SUCCESS].mean():.3f} / {one.values[column][MRR].mean():.3f}"
            for column in ("base", "best untuned", "tuned RRF", "served")
        ]
        against = paired_difference(one.values["served"][MRR], one.values["tuned RRF"][MRR], groups=one.groups)
        rows.append(f"| {one.name} | {one.seed} | {len(one.groups)} | {' | '.join(means)} | {against} | {one.served} |")
    findings.section(
        "Quality on test, R@1 / MRR@10",
        "| set | seed | queries | base | best untuned | dense + BM25 by RRF | served | MRR@10 over RRF | system |",
        rows,
    )
    names = list(dict.fromkeys(one.name for one in measured))
    for column, wanted in (("base", OVER_BASE), ("best untuned", OVER_UNTUNED), ("tuned RRF", OVER_EARLIER)):
        gains = [
            statistics.mean(
                one.values["served"][SUCCESS].mean() / one.values[column][SUCCESS].mean() - 1
                for one in measured
                if one.name == name
            )
            for name in names
        ]
        mean = statistics.mean(gains)
        findings.ask(f"R@1 over {column} {mean:+.0%} (asked {wanted:+.0%})", mean >= wanted)
    below = [
        f"{one.name} below {column}"
        for one in measured
        for column in ("best untuned", "tuned RRF")
        if paired_difference(one.values["served"][MRR], one.values[column][MRR], groups=one.groups).high < 0
    ]
    findings.ask(f"sets below either by more than the interval: {', '.join(below) or 'none'}", not below)


def compare_serving(folder: Path, runs: dict[str, RunFolder], findings: Findings) -> None:
    """Ask a retriever the test queries, and compare its results with the evaluated ranking."""
    rows, all_equal = [], True
    for name, made in runs.items():
        result = evaluate(load(folder, name), made.model)
        data = result.evaluation.data
        system = result.evaluation.system(result.verdict.serving["system"])
        if made.read_manifest()["serving"] != result.verdict.serving:
            rows.append(f"| {name} | {system.name} | none: this version chooses other settings than the run has | |")
            all_equal = False
            continue
        with closing(FineTunedHybridRetriever.from_run(made.path, similarity_top_k=20)) as retriever:
            count = min(COMPARED_QUERIES, len(data.queries))
            equal, times = 0, []
            for row in range(count):
                start = time.perf_counter()
                found = [hit.node.node_id for hit in retriever.search(data.queries[row])]
                times.append(1000 * (time.perf_counter() - start))
                evaluated = [data.corpus_ids[hit] for hit in system.rankings[row, :10] if hit >= 0]
                equal += _without_copies(found, data.corpus_ids)[: len(evaluated)] == evaluated
        all_equal &= equal == count
        rows.append(f"| {name} | {system.name} | {equal} of {count} | {statistics.median(times):.1f} ms |")
    findings.section("Serving", "| set | system | queries with the evaluated ids and order | p50 |", rows)
    findings.ask("served equals evaluated", all_equal)


def _without_copies(found: list[str], corpus_ids: tuple[str, ...]) -> list[str]:
    """Leave out memories whose text another memory has: the evaluation ranks each text once."""
    distinct = set(corpus_ids)
    return [identifier for identifier in found if identifier in distinct]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the retrieval sets")
    parser.add_argument("--sets", default=",".join(SETS), help="names of sets")
    parser.add_argument("--runs", type=Path, help="folder in which the runs are kept")
    parser.add_argument("--earlier", type=Path, help="runs of an earlier version, to compare with")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of training per run")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of sets with few training queries")
    parser.add_argument("--check", action="store_true", help="one small set, trained for a minute")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    folder = existing(options.data)
    keep_freed_memory()
    findings = Findings()
    names = ("ace",) if options.check else tuple(options.sets.split(","))
    seeds = [int(seed) for seed in ("0" if options.check else options.seeds).split(",")]
    measured, made_first = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        for name in names:
            for seed in seeds:
                made = finished_run(folder, name, seed, runs, 1.0 if options.check else options.budget)
                measured.append(measure(name, seed, made, options.earlier if seed == 0 else None))
                made_first.setdefault(name, made)
                if len(Split.load(made.split).train) >= FEW_QUERIES:
                    break
        compare_quality(measured, findings)
        compare_serving(folder, dict(list(made_first.items())[:2]), findings)
    versions = machine("torch", "sentence-transformers", "qdrant-client", "numpy")
    return findings.close("The served system", versions, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
