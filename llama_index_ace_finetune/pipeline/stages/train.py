"""Train the model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.mining.training_data_generator import generate_test_examples
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
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.training.modes.refit import config_for_selection, estimate_refit, refit_kind
from llama_index_ace_finetune.training.modes.schedule import estimate_modes


def _key(settings: RunSettings, dataset: RetrievalDataset, keys: Mapping[str, str]) -> str:
    values = settings.to_dict()["training"]
    training = by_content({name: value for name, value in values.items() if name != "device"})
    general = [dataset_content(read_dataset(Path(training["retention"])))] if training["retention"] else []
    further = [further_content(path) for path in training["also"]]
    return digest([keys["mine"], training, *general, *further])


def _run(context: StageContext) -> None:
    config = dataclasses.replace(context.settings.training, output_dir=str(context.folder.model))
    data = TrainingData.load(context.folder.training_data)
    if config.refit == "all":
        data = _with_test_examples(data, context)
    train_model(
        data,
        config,
        selected=context.folder.selected,
        cache=context.cache,
        checkpoints=context.work / "training",
        held_out_queries=_held_out(context),
        bases=context.bases,
        events=context.events,
        ranks=context.ranks,
    )


def _with_test_examples(data: TrainingData, context: StageContext) -> TrainingData:
    """Return the training data with the test queries, which only a refit on all queries is trained on."""
    settings = context.settings
    test = generate_test_examples(
        context.dataset,
        context.split,
        context.miner,
        num_negatives=settings.num_negatives,
        min_difficulty=settings.min_difficulty,
        skip_categories=settings.skip_categories,
    )
    return dataclasses.replace(data, examples=(*data.examples, *test))


def _outputs(run: RunFolder) -> tuple[Path, ...]:
    """Return the model, and the weights selected on dev, which are kept if a refit ships."""
    return (run.model, run.selected) if shipped_refit(read_provenance(run.model)) else (run.model,)


def _held_out(context: StageContext) -> list[str]:
    """Return the texts of all queries that the split does not train on."""
    split, queries = context.split, context.dataset.queries
    return [queries[i].text for name in split.held_parts if name != "train" for i in split.part(name)]


def _estimate(context: PlanContext) -> list[StageEstimate]:
    training, split = context.settings.training, context.split
    estimates = estimate_modes(config_for_selection(training), context.sizes, context.speed)
    refit = refit_kind(training, dict(estimates), measured=True)
    if refit != "none":
        parts: Sequence[str] = split.held_parts if refit == "all" else ("train", "dev")
        queries = sum(len(split.part(part)) for part in parts)
        estimates.append(("refit", estimate_refit(training, estimates, queries=queries, train=len(split.train))))
    return [StageEstimate(f"train: {name}", one.description, one.seconds) for name, one in estimates]


STAGE = Stage(name="train", outputs=_outputs, key=_key, run=_run, estimate=_estimate)
