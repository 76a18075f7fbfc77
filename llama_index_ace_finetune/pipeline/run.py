"""All stages in one: read, split, mine, train, evaluate, index."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.audit import audit_split, require_clean
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData, modified_at
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.evaluation.report.environment import describe_environment
from llama_index_ace_finetune.evaluation.report.report import read_report, write_report
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.report import save_mining_report
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.pipeline.config_file import config_text
from llama_index_ace_finetune.pipeline.evaluate_model import evaluate_model
from llama_index_ace_finetune.pipeline.generate import print_mining
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages import RUN, STAGE_FILES, kept_stages, stage_keys
from llama_index_ace_finetune.pipeline.summary import print_summary
from llama_index_ace_finetune.pipeline.train import train_model
from llama_index_ace_finetune.pipeline.work_folder import tidy_work, work_folder
from llama_index_ace_finetune.run_folder import MANIFEST_VERSION, RunFolder
from llama_index_ace_finetune.utils.atomic import write_json, write_text
from llama_index_ace_finetune.utils.console import notes, show, texts_progress
from llama_index_ace_finetune.utils.new_folder import new_folder, tidy
from llama_index_ace_finetune.utils.owned import added_by_user

__all__ = ["RunSettings", "run_pipeline"]


def run_pipeline(settings: RunSettings) -> dict[str, Any]:
    """Run every stage whose inputs are new, print the result and return the report.

    The run folder appears whole at the end, or not at all.

    Raises:
        OutputExistsError: if the run folder holds something else than this very run, and may not be changed.
    """
    start = time.perf_counter()
    tidy(settings.out)
    dataset = read_dataset(settings.data, settings.memories, columns=settings.columns)
    keys = stage_keys(settings, dataset)
    kept = kept_stages(settings, keys)
    if kept == set(keys):
        tidy_work(settings.out, inputs=keys)
        notes().print(f"nothing has changed since {settings.out} was made; --force makes it again", markup=False)
    else:
        with work_folder(settings.out, inputs=keys, resume=settings.resume) as work:
            _run(settings, dataset, keys, kept, work, start)
    report = read_report(RunFolder(settings.out).report)
    _show(report, RunFolder(settings.out), time.perf_counter() - start)
    return report


def tell_data(dataset: RetrievalDataset, split: Split) -> None:
    """Print what was read and how it is divided."""
    screen = notes()
    screen.print(
        f"{dataset.name}: {len(dataset.memories)} memories ({len(dataset.answers)} distinct), "
        f"{len(dataset.queries)} queries, read as {dataset.ledger.format}",
        markup=False,
    )
    for line in dataset.ledger.lines():
        screen.print(f"  {line}", markup=False)
    screen.print(f"split: train {len(split.train)}, dev {len(split.dev)}, test {len(split.test)} queries")


@dataclass(frozen=True, kw_only=True)
class _Stages:
    """What the stages of one run share; `folder` is the new run folder, `cache` holds vectors."""

    settings: RunSettings
    dataset: RetrievalDataset
    split: Split
    base: Encoder
    folder: RunFolder
    cache: Path

    def mine(self) -> None:
        """Write split.json, training_data.json and the report of the mining."""
        settings, dataset, split = self.settings, self.dataset, self.split
        miner = HardNegativeMiner(
            model=settings.training.base_model,
            settings=settings.mining,
            encoder=self.base,
            cache=self.cache,
            device=settings.training.device,
        )
        with texts_progress("mining", len(split.train) + len(split.dev) + len(dataset.answers)) as progress:
            data = generate_training_data(
                dataset,
                split,
                miner,
                num_negatives=settings.num_negatives,
                min_difficulty=settings.min_difficulty,
                skip_categories=settings.skip_categories,
                source=str(settings.data),
                generated_at=modified_at(settings.data, settings.memories),
                progress=progress,
            )
        print_mining(miner.report, notes())
        save_mining_report(miner.report, self.folder.mining)
        require_clean(audit_split(dataset, split, data.examples_of("train")))
        split.save(self.folder.split)
        data.save(self.folder.training_data)

    def train(self, checkpoints: Path) -> None:
        """Write the model folder."""
        config = dataclasses.replace(self.settings.training, output_dir=str(self.folder.model))
        train_model(TrainingData.load(self.folder.training_data), config, cache=self.cache, checkpoints=checkpoints)

    def evaluate(self, tuned: Encoder) -> None:
        """Write the report."""
        result = evaluate_model(
            self.dataset,
            self.folder.model,
            device=self.settings.training.device,
            precision=self.settings.training.precision,
            cache=self.cache,
            tuned=tuned,
            command=self.settings.command,
        )
        result.report["finetuned"]["model"] = "model"
        write_report(result.report, self.folder.report, evaluation=result.evaluation)

    def index(self, tuned: Encoder) -> None:
        """Write the embedded store."""
        write_index(
            self.dataset.memories.values(), tuned=tuned, base=self.base, path=self.folder.index, cache=self.cache
        )


def _run(
    settings: RunSettings,
    dataset: RetrievalDataset,
    keys: dict[str, str],
    kept: set[str],
    work: Path,
    start: float,
) -> None:
    split = split_dataset(dataset, settings=settings.split)
    tell_data(dataset, split)
    encoding = EncoderSettings(device=settings.training.device, precision=settings.training.precision)
    base = Encoder.load(settings.training.base_model, settings=encoding)
    with new_folder(settings.out, kind=RUN) as aside:
        folder = RunFolder(aside)
        added = {settings.out / path for path in added_by_user(settings.out)} if kept else set()
        for stage in sorted(kept):
            notes().print(f"{stage}: kept, since its inputs have not changed")
            for name in STAGE_FILES[stage]:
                _copy(settings.out / name, aside / name, without=added)
        stages = _Stages(
            settings=settings, dataset=dataset, split=split, base=base, folder=folder, cache=work / "vectors"
        )
        if "mine" not in kept:
            stages.mine()
        if "train" not in kept:
            stages.train(work / "training")
        tuned = Encoder.load(folder.model, settings=encoding)
        tuned.name = str(RunFolder(settings.out).model)  # where it is from now on, for the index's record
        if "evaluate" not in kept:
            stages.evaluate(tuned)
        if "index" not in kept:
            stages.index(tuned)
        write_text(folder.config, config_text(settings))
        write_json(folder.manifest, _manifest(settings, keys, folder, time.perf_counter() - start))


def _copy(source: Path, target: Path, *, without: set[Path]) -> None:
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=lambda folder, names: [name for name in names if Path(folder, name) in without]
        )
    else:
        shutil.copy2(source, target)


def _manifest(settings: RunSettings, keys: dict[str, str], folder: RunFolder, seconds: float) -> dict[str, Any]:
    report = read_report(folder.report)
    training = report["training"]
    return {
        "format_version": MANIFEST_VERSION,
        "package_version": __version__,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "base_model": settings.training.base_model,
        **settings.to_dict(),
        "seeds": settings.seeds(),
        "precision": report.get("precision"),
        "stages": keys,
        "environment": describe_environment(),
        "training_seconds": (training["metrics"] or {}).get("training_time_seconds"),
        "shipped": (training["selection"] or {}).get("shipped"),
        "serving": report["serving"],
    }


def _show(report: dict[str, Any], run: RunFolder, seconds: float) -> None:
    paths = {"model": run.model, "index": run.index, "report": run.report.with_suffix(".html")}

    def human(screen: Console) -> None:
        print_summary(report, screen)
        for name, path in paths.items():
            screen.print(f"{name:<7} {path}", markup=False)
        screen.print(f"{seconds:.0f} s in all", markup=False)

    told = {"folder": str(run.path), **{name: str(path) for name, path in paths.items()}, "seconds": round(seconds, 1)}
    show({**report, "run": told}, human)
