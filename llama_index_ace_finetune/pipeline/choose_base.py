"""The base model of a training, of several that the settings name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.pipeline.base_encoding import base_encoding
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.divide_examples import divide_examples
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.base_choice import BaseChoice, choose_base
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def base_names(base_model: str) -> tuple[str, ...]:
    """Return the base models that a setting names, separated by commas; a folder's name may hold some itself."""
    if Path(base_model).expanduser().is_dir():
        return (base_model,)
    return tuple(dict.fromkeys(name.strip() for name in base_model.split(",") if name.strip())) or (base_model,)


def dev_of_split(dataset: RetrievalDataset, split: Split | None) -> DevSet | None:
    """Return the dev queries of a split over all memories; None if there are none."""
    dev = tuple(
        TrainingExample(
            query_id=query_id,
            query=dataset.queries[query_id].text,
            positive_ids=tuple(sorted(dataset.relevant(query_id))),
            own_id=dataset.own_answer(query_id),
        )
        for query_id in (split.dev if split else ())
    )
    memories = {identifier: memory.text for identifier, memory in dataset.answers.items()}
    return DevSet(index_examples(TrainingData(dev, memories), dev)) if dev else None


def dev_of_training_data(data: TrainingData, config: TrainingConfig) -> DevSet | None:
    """Return the dev queries that a training on these data selects on; None if there are none."""
    require_held_out(data)
    _, dev = divide_examples(data, train_split=config.train_split, seed=config.seed)
    return DevSet(index_examples(data, dev)) if dev else None


def with_one_base(
    config: TrainingConfig, dev: DevSet | None, events: PipelineEvents
) -> tuple[TrainingConfig, BaseChoice]:
    """Return the settings with the base model that is chosen on dev, and the choice.

    Args:
        config: settings that name several base models.
        dev: the dev queries.
        events: receives a line on each model.

    Raises:
        TrainingError: if there are no dev queries.
        ModelError: if a model cannot be loaded, or was tuned by this package, which may have seen the dev queries.
    """
    names = base_names(config.base_model)
    if dev is None:
        raise TrainingError(
            f"There are no dev queries, on which {len(names)} base models could be compared; name one of them."
        )
    for name in names:
        if read_base_provenance(name) is not None:
            raise ModelError(
                f"The model {name!r} was tuned by this package and may have seen the dev queries; compare base models "
                "that are not tuned, or name it only."
            )
    settings = base_encoding(config)
    choice = choose_base([(_shown(name), partial(Encoder.load, name, settings=settings)) for name in names], dev)
    for score in choice.scores:
        events.on_message(f"base model {score}")
    events.on_message(f"base model {choice.scores[choice.chosen].name} is tuned")
    return replace(config, base_model=names[choice.chosen]), choice


def _shown(name: str) -> str:
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name
