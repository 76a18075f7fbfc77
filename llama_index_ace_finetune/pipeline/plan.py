"""What a run would do, and about how long it would take."""

from __future__ import annotations

import random
from typing import Any

from rich.console import Console

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.training_data_generator import choose_queries
from llama_index_ace_finetune.pipeline.run import tell_data
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.speed import cost, measure_speed
from llama_index_ace_finetune.pipeline.stages import kept_stages, stage_keys
from llama_index_ace_finetune.training.modes.mode import TrainingSizes
from llama_index_ace_finetune.training.modes.schedule import estimate_modes
from llama_index_ace_finetune.utils.console import show, table_for

_MEASURED_SECONDS = 6.0
_SAMPLE = 512


def print_plan(settings: RunSettings) -> None:
    """Print what `run_pipeline` would do with these settings; nothing is written.

    Raises:
        OutputExistsError: as the run would.
    """
    dataset = read_dataset(settings.data, settings.memories, columns=settings.columns)
    kept = kept_stages(settings, stage_keys(settings, dataset))
    split = split_dataset(dataset, settings=settings.split)
    choose_queries(
        dataset, split, min_difficulty=settings.min_difficulty, skip_categories=settings.skip_categories
    )  # refuses what the run would refuse
    encoding = EncoderSettings(device=settings.training.device, precision=settings.training.precision)
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
    train, dev, test = (cost(queries[part], encoder) for part in ("train", "dev", "test"))
    sizes = TrainingSizes(
        train=train,
        dev=dev,
        corpus=cost(documents, encoder),
        train_queries=len(queries["train"]),
        memories=len(documents),
    )
    mining = (sizes.train + sizes.dev + sizes.corpus) * speed.embed
    evaluation = (2 * test + sizes.dev + sizes.corpus) * speed.embed
    mined = len(queries["train"]) + len(queries["dev"])
    found: list[tuple[str, str, str, float]] = [
        ("mine", "mine", f"{settings.num_negatives} negatives for each of {mined} queries", mining)
    ]
    for name, estimate in estimate_modes(settings.training, sizes, speed):
        found.append(("train", f"train: {name}", estimate.description, estimate.seconds))
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
