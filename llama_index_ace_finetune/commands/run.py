"""All stages in one: read, split, mine, train, evaluate, index."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.atomic import new_folder, write_json
from llama_index_ace_finetune.commands.console import console, texts_progress
from llama_index_ace_finetune.commands.evaluate import evaluate_model
from llama_index_ace_finetune.commands.generate import print_mining
from llama_index_ace_finetune.commands.index import write_index
from llama_index_ace_finetune.commands.summary import print_summary
from llama_index_ace_finetune.commands.train import train_model
from llama_index_ace_finetune.commands.work_folder import work_folder
from llama_index_ace_finetune.datasets.audit import audit_split, require_clean
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.split import SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.training_data import modified_at
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.evaluation.report import write_report
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.save_report import save_mining_report
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What `ace-finetune run` does with which data.

    Attributes:
        data: a dataset that `read_dataset` takes.
        memories: memories beyond those of the data.
        out: run folder; must not exist.
        training: settings of the training; its output_dir is not used.
        split: settings of the split.
        negatives: mined per query.
        mining: where candidates come from, and which are refused.
        min_difficulty: leave out easier training queries.
        skip_categories: leave out training queries of these categories.
        resume: go on from where a run with the same data and settings was broken off.
        command: as typed, for the report.
    """

    data: Path
    out: Path
    memories: Path | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    split: SplitSettings = field(default_factory=SplitSettings)
    negatives: int = 5
    mining: MiningSettings = field(default_factory=MiningSettings)
    min_difficulty: str | None = None
    skip_categories: frozenset[str] = frozenset()
    resume: bool = False
    command: str = ""


def run_pipeline(settings: RunSettings) -> dict[str, Any]:
    """Run every stage and return the report. The run folder appears whole at the end, or not at all."""
    RunFolder.create(settings.out)
    screen = console()
    start = time.perf_counter()
    dataset = read_dataset(settings.data, settings.memories)
    screen.print(
        f"{dataset.name}: {len(dataset.memories)} memories ({len(dataset.answers)} distinct), "
        f"{len(dataset.queries)} queries, read as {dataset.ledger.format}"
    )
    for rule, count in sorted(dataset.ledger.counts.items()):
        screen.print(f"  {rule}: {count}", markup=False)
    split = split_dataset(dataset, settings=settings.split)
    screen.print(f"split: train {len(split.train)}, dev {len(split.dev)}, test {len(split.test)} queries")
    encoding = EncoderSettings(device=settings.training.device, precision="auto")
    base = Encoder.load(settings.training.base_model, settings=encoding)
    inputs = _inputs(settings, dataset)
    with work_folder(settings.out, inputs=inputs, resume=settings.resume) as work, new_folder(settings.out) as aside:
        cache, folder = work / "vectors", RunFolder(aside)
        miner = HardNegativeMiner(
            model=settings.training.base_model,
            settings=settings.mining,
            encoder=base,
            cache=cache,
            device=settings.training.device,
        )
        with texts_progress("mining", len(split.train) + len(split.dev) + len(dataset.answers)) as progress:
            data = generate_training_data(
                dataset,
                split,
                miner,
                negatives=settings.negatives,
                min_difficulty=settings.min_difficulty,
                skip_categories=settings.skip_categories,
                source=str(settings.data),
                generated_at=modified_at(settings.data, settings.memories),
                progress=progress,
            )
        print_mining(miner.report, screen)
        save_mining_report(miner.report, folder.mining)
        require_clean(audit_split(dataset, split, data.examples_of("train")))
        split.save(folder.split)
        data.save(folder.training_data)
        metrics = train_model(
            data,
            dataclasses.replace(settings.training, output_dir=str(folder.model)),
            cache=cache,
            checkpoints=work / "training",
        )
        tuned = Encoder.load(folder.model, settings=encoding)
        result = evaluate_model(
            dataset, folder.model, device=settings.training.device, cache=cache, tuned=tuned, command=settings.command
        )
        result.report["finetuned"]["model"] = "model"
        write_report(result.report, folder.report, evaluation=result.evaluation)
        write_index(dataset.memories.values(), tuned=tuned, base=base, path=folder.index, cache=cache)
        seconds = time.perf_counter() - start
        write_json(folder.manifest, _manifest(settings, metrics, seconds))
    print_summary(result.report, screen)
    final = RunFolder(settings.out)
    screen.print(f"model   {final.model}", markup=False)
    screen.print(f"index   {final.index}", markup=False)
    screen.print(f"report  {final.report.with_suffix('.html')}", markup=False)
    screen.print(f"{seconds:.0f} s in all", markup=False)
    return result.report


def _inputs(settings: RunSettings, dataset: RetrievalDataset) -> dict[str, Any]:
    """All that the result depends on."""
    return {
        "memories": {identifier: [memory.text, memory.metadata] for identifier, memory in dataset.memories.items()},
        "queries": {identifier: [query.text, query.metadata] for identifier, query in dataset.queries.items()},
        "judgements": {identifier: dict(grades) for identifier, grades in dataset.judgements.items()},
        "training": settings.training.to_dict(),
        "split": dataclasses.asdict(settings.split),
        "mining": settings.mining.to_dict(),
        "filters": [settings.negatives, settings.min_difficulty, sorted(settings.skip_categories)],
    }


def _manifest(settings: RunSettings, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "format_version": 1,
        "package_version": __version__,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "data": str(settings.data),
        "memories": str(settings.memories) if settings.memories else None,
        "base_model": settings.training.base_model,
        "training": settings.training.to_dict(),
        "split": dataclasses.asdict(settings.split),
        "negatives": settings.negatives,
        "mining": settings.mining.to_dict(),
        "training_seconds": metrics["training_time_seconds"],
        "shipped": (metrics.get("selection") or {}).get("shipped"),
    }
