"""What a run would do, and about how long it would take."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from llama_index_ace_finetune.commands.console import show, table_for
from llama_index_ace_finetune.commands.measure_speed import Speed, cost, measure_speed
from llama_index_ace_finetune.commands.run import tell_data
from llama_index_ace_finetune.commands.run_settings import RunSettings
from llama_index_ace_finetune.commands.stages import kept_stages, stage_keys
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.split import Split, split_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.loop.budget import LookSeconds, StepPlan
from llama_index_ace_finetune.training.model_selection.dev_set import DEPTH, POOL_QUERIES
from llama_index_ace_finetune.training.modes.linear_adapter import LinearSettings
from llama_index_ace_finetune.training.modes.query_encoder import QueryTowerSettings
from llama_index_ace_finetune.training.modes.schedule import QUERIES_SHARE

_MEASURED_SECONDS = 6.0
_SAMPLE = 512


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Characters of each part, and counts."""

    train: int
    dev: int
    test: int
    corpus: int
    train_queries: int
    memories: int


def print_plan(settings: RunSettings) -> None:
    """Print what `run_pipeline` would do with these settings; nothing is written.

    Raises:
        OutputExistsError: as the run would.
    """
    dataset = read_dataset(settings.data, settings.memories)
    kept = kept_stages(settings, stage_keys(settings, dataset))
    split = split_dataset(dataset, settings=settings.split)
    encoding = EncoderSettings(device=settings.training.device, precision="auto")
    encoder = Encoder.load(settings.training.base_model, settings=encoding)
    stages = plan_run(settings, dataset, split, encoder, kept=kept)
    plan = {
        "out": str(settings.out),
        "base_model": settings.training.base_model,
        "device": str(encoder.model.device),
        "precision": encoder.settings.precision,
        "memories": len(dataset.memories),
        "distinct_memories": len(dataset.answers),
        "queries": {part: len(split.part(part)) for part in ("train", "dev", "test")},
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
    }

    def human(screen: Console) -> None:
        tell_data(dataset, split)
        _print(plan, screen)

    show(plan, human)


def plan_run(
    settings: RunSettings, dataset: RetrievalDataset, split: Split, encoder: Encoder, *, kept: set[str]
) -> list[dict[str, Any]]:
    """Return name, what is done, and estimated seconds of each stage.

    Embedding and training are measured on a sample for some seconds and taken times the characters of the data; steps
    are counted as the training plans them, its budget included. Loading, a teacher, a retention set and the
    bootstrap are left out.
    """
    documents = [memory.text for memory in dataset.answers.values()]
    queries = {part: [dataset.queries[i].text for i in split.part(part)] for part in ("train", "dev", "test")}
    texts = [*documents, *queries["train"], *queries["dev"]]
    sample = random.Random(0).sample(texts, min(_SAMPLE, len(texts)))
    speed = measure_speed(encoder, sample, memories=len(documents), seconds=_MEASURED_SECONDS)
    sizes = _Sizes(
        **{part: cost(texts, encoder) for part, texts in queries.items()},
        corpus=cost(documents, encoder),
        train_queries=len(queries["train"]),
        memories=len(documents),
    )
    mining = (sizes.train + sizes.dev + sizes.corpus) * speed.embed
    evaluation = (2 * sizes.test + sizes.dev + sizes.corpus) * speed.embed
    mined = len(queries["train"]) + len(queries["dev"])
    found: list[tuple[str, str, str, float]] = [
        ("mine", "mine", f"{settings.num_negatives} negatives for each of {mined} queries", mining)
    ]
    found += [("train", name, what, seconds) for name, what, seconds in _rungs(settings.training, sizes, speed)]
    found.append(("evaluate", "evaluate", f"{len(queries['test'])} queries over {len(documents)} memories", evaluation))
    found.append(("index", "index", f"{len(dataset.memories)} memories, embedded by then", 0.0))
    return [
        {
            "stage": name,
            "does": "nothing: its inputs have not changed" if stage in kept else what,
            "seconds": 0.0 if stage in kept else round(seconds, 1),
        }
        for stage, name, what, seconds in found
    ]


def _rungs(config: TrainingConfig, sizes: _Sizes, speed: Speed) -> list[tuple[str, str, float]]:
    """Name, description and seconds of the rungs that `climb` will take."""
    left = None if config.budget_minutes is None else 60 * config.budget_minutes
    full = config.mode == "full" or (config.mode == "auto" and not config.keep_index)
    mixtures = sum(share < 1 for share in config.interpolation)
    found = []
    if config.mode != "full":
        linear = LinearSettings()
        steps = len(linear.pulls) * linear.steps
        found.append(("train: linear", f"{steps} steps", steps * speed.linear_step))
    if config.mode in ("queries", "auto"):
        tower = QueryTowerSettings()
        budget = left if left is None or not full else QUERIES_SHARE * left
        look = sizes.dev * speed.embed
        batches = max(1, -(-sizes.train_queries // tower.batch_size))
        seconds = StepPlan.within(
            budget,
            steps=tower.epochs * batches,
            step_seconds=sizes.train * speed.train / batches,
            look_every=batches,
            looks=LookSeconds(each=look, after=mixtures * look),
        ).seconds
        found.append(("train: queries", f"up to {tower.epochs} epochs, queries alone", seconds))
    if full:
        if left is not None:
            left = max(left - sum(seconds for _, _, seconds in found), 0.0)
        batch = min(sizes.memories, config.batch_size * (1 + config.hard_negatives))
        batches = max(1, -(-sizes.train_queries // config.batch_size))
        epoch = (sizes.train + batches * batch * sizes.corpus / sizes.memories) * speed.train
        looked_at = min(1.0, POOL_QUERIES * DEPTH / sizes.memories) * sizes.corpus + sizes.dev
        look = looked_at * speed.embed
        decision = (sizes.corpus + sizes.dev) * speed.embed
        seconds = StepPlan.within(
            left,
            steps=config.epochs * batches,
            step_seconds=epoch / batches,
            look_every=batches,
            looks=LookSeconds(each=look, after=mixtures * look + decision),
        ).seconds
        found.append(("train: full", f"up to {config.epochs} epochs of {batches} steps, both sides", seconds))
    return found


def _print(plan: dict[str, Any], screen: Console) -> None:
    table = table_for(screen)
    table.add_column("stage", no_wrap=True)
    table.add_column("what is done")
    table.add_column("about", justify="right", no_wrap=True)
    for stage in plan["stages"]:
        table.add_row(stage["stage"], stage["does"], _duration(stage["seconds"]))
    screen.print(table)
    screen.print(
        f"{plan['base_model']} on {plan['device']} in {plan['precision']}: about {_duration(plan['seconds'])} in all, "
        f"into {plan['out']}; nothing was written",
        markup=False,
    )


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
