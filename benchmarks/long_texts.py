"""Windows of long texts against truncated texts, with the untuned default model.

    python benchmarks/long_texts.py --data SETS [--sets NAMES] [--check] [--out FILE] [--kept FILE]

The default split of each set. Dense only, and with BM25 in a convex combination whose weights are selected on dev, each
without and with windows of the texts that exceed the model's limit. `--check` takes the first 500 memories and the
queries about them. Exits 1 if windows lose more than .005 of MRR@10 on a set where they are selected on dev.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from kept import Kept
from machine import machine
from numpy.typing import NDArray
from options import parser_of_sets
from sets import load

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.metrics.measures import measure_rankings, parse_measure
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet

CHECKED = 500
ALLOWED_LOSS = 0.005
MEASURES = ("Success@1", "MRR@10")


def first_memories(dataset: RetrievalDataset) -> RetrievalDataset:
    """Return the first memories, and the queries about them only."""
    kept = dict(list(dataset.memories.items())[:CHECKED])
    judged = {
        query: {one: grade for one, grade in by.items() if one in kept} for query, by in dataset.judgements.items()
    }
    judged = {query: by for query, by in judged.items() if any(grade > 0 for grade in by.values())}
    return RetrievalDataset(dataset.name, kept, {query: dataset.queries[query] for query in judged}, judged)


def of_set(folder: Path, name: str, check: bool) -> dict[str, Any]:
    """Return the rows of both tables, and MRR@10 without and with windows if these are selected."""
    dataset = load(folder, name)
    if check:
        dataset = first_memories(dataset)
    split, model = split_dataset(dataset), Encoder.load(DEFAULT_BASE_MODEL)
    data = EvaluationSet.of(dataset, [*split.dev, *split.test])
    dev, test = slice(0, len(split.dev)), slice(len(split.dev), len(data.queries))
    start = time.perf_counter()
    encoded = EncodedSet.of(data, model)
    texts = time.perf_counter() - start
    windows = CorpusWindows.of(model, data.corpus)
    vectors = windows.encode()
    both = time.perf_counter() - start
    cost = (
        f"| {name} | {len(data.corpus):,} | {windows.truncated:,} | {len(windows.texts):,} | {texts:.0f} | "
        f"{both - texts:.0f} |"
    )
    systems = ServableSystems.of(
        data, {"base": model}, {"base": encoded}, late_interaction=False, windows={"base": vectors}
    )
    found = systems.compare(dev, latency={})
    chosen = found.choice.candidate.structure
    rows, values = [], {}
    for legs in (("dense",), ("dense", "bm25")):
        for candidate in found.candidates:
            structure = candidate.structure
            if structure.legs != legs or structure.kind != "convex":
                continue
            row = found.choice.rows[structure.name]
            of_test = measured(systems, structure, row, data, test)
            values[legs, structure.windows] = of_test["MRR@10"]
            cells = " | ".join(f"{of_test[measure].mean():.3f}" for measure in MEASURES)
            rows.append(
                f"| {name} | {structure.name} | {found.choice.means.get(structure.name, float('nan')):.3f} | {cells} |"
            )
        gain = paired_difference(values[legs, True], values[legs, False], groups=data.groups[test])
        rows[-1] = f"{rows[-1]} {gain} |"
        rows[-2] = f"{rows[-2]} |"
    rows.append(f"| {name} | selected: {chosen.name} | {found.choice.means[chosen.name]:.3f} | | | |")
    selected = None
    if chosen.windows:
        pair = (replace(chosen, windows=False), chosen)
        selected = [float(measured(systems, one, found.choice.row, data, test)["MRR@10"].mean()) for one in pair]
    return {"cost": cost, "rows": rows, "selected": selected}


def measured(
    systems: ServableSystems, structure: Structure, row: int, data: EvaluationSet, test: slice
) -> dict[str, NDArray[np.float64]]:
    system = systems.system(structure, row, name=structure.name, trained=False).rows(test)
    of_test = EvaluationSet(
        data.query_ids[test], data.queries[test], data.corpus_ids, data.corpus, data.relevant[test],
        None if data.grades is None else data.grades[test],
    )  # fmt: skip
    return measure_rankings([parse_measure(one) for one in MEASURES], system.rankings, of_test.qrels)


def main() -> int:
    options = parser_of_sets(__doc__, sets="scifact,medquad", data_required=True).parse_args()
    findings, rows, costs, kept = Findings(), [], [], Kept(options.kept)
    for name in options.sets.split(","):
        found = kept.measure(f"{name} {options.check}", lambda name=name: of_set(options.data, name, options.check))
        costs.append(found["cost"])
        rows += found["rows"]
        print("\n".join(found["rows"]), flush=True)
        if found["selected"]:
            cut, windows = found["selected"]
            findings.ask(f"{name}: windows {cut:.3f} -> {windows:.3f}", windows >= cut - ALLOWED_LOSS)
    columns = ("set", "system", "MRR@10 on dev", "R@1 on test", "MRR@10 on test", "difference by windows")
    findings.section("Without and with windows, untuned model", f"| {' | '.join(columns)} |", rows)
    columns = ("set", "memories", "longer than 256 tokens", "windows", "s to encode the memories", "s for the windows")
    findings.section("Cost", f"| {' | '.join(columns)} |", costs)
    return findings.close("Long texts", machine("numpy", "torch", "sentence-transformers"), options.out)


if __name__ == "__main__":
    sys.exit(main())
