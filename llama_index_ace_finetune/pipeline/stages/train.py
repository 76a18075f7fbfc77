"""Train the model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.pipeline.further_content import further_content
from llama_index_ace_finetune.pipeline.model_contents import by_content
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.stage import (
    PlanContext,
    Stage,
    StageContext,
    StageEstimate,
    dataset_content,
    digest,
)
from llama_index_ace_finetune.pipeline.train import train_model
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.training.modes.schedule import estimate_modes


def _key(settings: RunSettings, dataset: RetrievalDataset, keys: Mapping[str, str]) -> str:
    values = settings.to_dict()["training"]
    training = by_content({name: value for name, value in values.items() if name != "device"})
    general = [dataset_content(read_dataset(Path(training["retention"])))] if training["retention"] else []
    further = [further_content(path) for path in training["also"]]
    return digest([keys["mine"], training, *general, *further])


def _run(context: StageContext) -> None:
    config = dataclasses.replace(context.settings.training, output_dir=str(context.folder.model))
    train_model(
        TrainingData.load(context.folder.training_data),
        config,
        cache=context.cache,
        checkpoints=context.work / "training",
        held_out_queries=_held_out(context),
        bases=context.bases,
        events=context.events,
    )


def _held_out(context: StageContext) -> list[str]:
    """Return the texts of all queries that the split does not train on."""
    split, queries = context.split, context.dataset.queries
    return [queries[i].text for name in split.held_parts if name != "train" for i in split.part(name)]


def _estimate(context: PlanContext) -> list[StageEstimate]:
    estimates = estimate_modes(context.settings.training, context.sizes, context.speed)
    return [StageEstimate(f"train: {name}", one.description, one.seconds) for name, one in estimates]


STAGE = Stage(name="train", outputs=lambda run: (run.model,), key=_key, run=_run, estimate=_estimate)
