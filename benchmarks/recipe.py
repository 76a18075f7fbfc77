"""Settings of modes that train all weights: the cost and gain of each, varied one at a time around the defaults.

    python benchmarks/recipe.py --data FOLDER [--check] [--mode MODE] [--sets NAMES] [--settings NAMES] [--refit]
        [--seeds N] [--out FILE] [--kept FILE]

All epochs are trained, without a budget. Gains are in MRR@10 on the dev queries over the whole corpus, so that the test
queries of benchmarks/training.py stay unseen; a refit has trained on them, so its gain over the weights that were
selected is on the test queries. With `--kept` an interrupted run is resumed; `--check` tries some settings on one set.
Exits 1 if another setting is both faster than the default and better by more than 0.01.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from existing import existing
from findings import Findings
from kept import Kept
from machine import machine
from timing import quiet
from tuning import mined, success_at_1, tuner_of

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.utils.memory import keep_freed_memory

SETS = ("ace", "locomo", "msvc_errors", "cosqa")
MODES = ("full", "in_batch")
DEFAULTS, REFIT = "defaults", "refit"
VARIED: dict[str, tuple[Any, ...]] = {
    "hard_negatives": (0, 1, 2, 4),
    "remine": (0, 1, 2),
    "cluster_size": (1, 8, 16, 32, 64),
    "frozen_layers": (0, 2, 3),
    "epochs": (2, 3, 4, 6),
    "learning_rate": (2e-5, 5e-5, 1e-4, 2e-4),
    "batch_size": (32, 64, 128),
    "temperature": (0.02, 0.03, 0.05, 0.1),
    "warmup_steps": (0, 100),
    "symmetric": (False, True),
    "late_interaction_weight": (0.0, 1.0),
    "max_seq_length": (64, 128, 256),
    "teacher": ("hybrid",),
    "tasks": (("duplicates",), ("paraphrases",), ("structure",)),
}
CHECKED = ("hard_negatives", "cluster_size")
BETTER = 0.01


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else value if isinstance(value, str) else value[0]


def variants(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Options of `TrainingConfig` by their name in the table, the defaults first; a setting is NAME or NAME=VALUE."""
    default = TrainingConfig().to_dict()
    found: dict[str, dict[str, Any]] = {DEFAULTS: {}}
    for setting in settings:
        name, _, only = setting.partition("=")
        for value in VARIED[name]:
            if value != default[name] and only in ("", shown(value)):
                found[f"{name} {shown(value)}"] = {name: value}
    return found


def trained(data: TrainingData, scratch: Path, options: dict[str, Any]) -> dict[str, float]:
    """Train; return the gain on dev, and seconds including dev evaluations."""
    tuner = tuner_of(data, scratch / "model", scratch / "vectors", interpolation=(1.0,), budget_minutes=None, **options)
    with quiet():
        tuner.train()
    result = tuner.results[-1]
    assert result.selection is not None
    return {"gain": result.selection.difference.mean, "seconds": result.seconds}


def refitted(data: TrainingData, test: DevSet, scratch: Path, options: dict[str, Any]) -> dict[str, float]:
    """Train with a refit; return R@1 and MRR@10 on test of the selected and the refitted weights, and its seconds."""
    fixed = {"refit": "dev", "interpolation": (1.0,), "budget_minutes": None}
    tuner = tuner_of(data, scratch / "model", scratch / "vectors", selected=scratch / "selected", **fixed | options)
    with quiet():
        tuner.train()
    if tuner.refit is None or not tuner.refit.ships:
        return {}
    found = {"seconds": tuner.refit.seconds}
    for name in ("selected", "model"):
        scores = test.score(Encoder.load(str(scratch / name), settings=EncoderSettings(device="cpu", precision="auto")))
        found |= {f"{name} R@1": success_at_1(scores), f"{name} MRR@10": float(scores.mrr.mean())}
    return found


def refit_row(dataset: str, seed: int, measured: dict[str, float]) -> str:
    if not measured:
        return f"| {dataset} | {seed} | base | not trained | |"
    pairs = [f"{measured[f'{name} R@1']:.3f} / {measured[f'{name} MRR@10']:.3f}" for name in ("selected", "model")]
    return f"| {dataset} | {seed} | {pairs[0]} | {pairs[1]} | {measured['seconds']:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the retrieval sets")
    parser.add_argument("--check", action="store_true", help="some settings on one set")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="training mode; default: %(default)s")
    parser.add_argument("--sets", default=",".join(SETS), help="names, comma-separated")
    parser.add_argument("--settings", default=",".join(VARIED), help="NAME or NAME=VALUE, comma-separated")
    parser.add_argument("--refit", action="store_true", help="also measure a refit, on the test queries")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    parser.add_argument("--kept", type=Path, help="file of the figures measured so far, to resume from")
    options = parser.parse_args()
    keep_freed_memory()
    folder = existing(options.data)
    findings, kept = Findings(), Kept(options.kept)
    names = SETS[:1] if options.check else tuple(options.sets.split(","))
    tried = variants(CHECKED if options.check else tuple(options.settings.split(",")))
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in tried}
    refits: list[str] = []
    for dataset in names:
        with tempfile.TemporaryDirectory() as scratch:
            made = functools.cache(functools.partial(mined, folder, dataset, Path(scratch) / "vectors"))
            for name, given in tried.items():
                runs = [
                    kept.measure(
                        f"recipe {options.mode} {dataset} {name} {seed}",
                        lambda given=given | {"mode": options.mode, "seed": seed}, made=made, at=Path(scratch): trained(
                            made()[0], at, given
                        ),
                    )
                    for seed in range(1 if options.check else options.seeds)
                ]
                gain, seconds = (float(np.mean([run[key] for run in runs])) for key in ("gain", "seconds"))
                found[name][dataset] = gain, seconds
                print(f"{dataset} {name}: {gain:+.3f} in {seconds:.0f} s", flush=True)
            for seed in range(options.seeds if options.refit else 0):
                measured = kept.measure(
                    f"{REFIT} {options.mode} {dataset} {seed}",
                    lambda given={"mode": options.mode, "seed": seed}, made=made, at=Path(scratch): refitted(
                        *made(), at, given
                    ),
                )
                refits.append(refit_row(dataset, seed, measured))
                print(refits[-1], flush=True)

    def means(name: str) -> tuple[float, float]:
        of_sets = found[name].values()
        time = np.mean([seconds / found[DEFAULTS][dataset][1] for dataset, (_, seconds) in found[name].items()])
        return float(np.mean([gain for gain, _ in of_sets])), float(time)

    rows = [
        f"| {name} | {' | '.join(f'{gain:+.3f} ({seconds:.0f} s)' for gain, seconds in found[name].values())} "
        f"| {means(name)[0]:+.3f} | {means(name)[1]:.2f} |"
        for name in tried
    ]
    findings.section(
        f"Gain in dev MRR@10 (and seconds of the mode {options.mode})",
        f"| setting | {' | '.join(names)} | mean gain | time |",
        rows,
    )
    if refits:
        findings.section(
            "A refit on train and dev queries, R@1 / MRR@10 on test",
            "| set | seed | selected on dev | refitted | seconds of the refit |",
            refits,
        )
    gain, _ = means(DEFAULTS)
    better = [name for name in tried if means(name)[0] > gain + BETTER and means(name)[1] < 1]
    findings.ask(f"settings quicker than the default and better by {BETTER:g}: {better} (asked none)", not better)
    return findings.close("Recipe", machine("torch", "sentence-transformers", "numpy"), options.out)


if __name__ == "__main__":
    sys.exit(main())
