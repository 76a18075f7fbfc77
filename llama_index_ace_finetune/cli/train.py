"""`train`: fine-tune on training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.flags import training_flags
from llama_index_ace_finetune.cli.options import (
    Also,
    AsJson,
    BaseModels,
    BatchSize,
    Budget,
    Device,
    DocumentPrompt,
    Epochs,
    KeepIndex,
    LateInteractionWeight,
    LearningRate,
    Precision,
    Processes,
    QueryPrompt,
    RefitOn,
    Remine,
    Resume,
    Retention,
    Seed,
    Tasks,
    TrainingMode,
)
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.train import TrainingResult


def train(
    context: typer.Context,
    training_data: Annotated[Path, typer.Option(help="File that `generate` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the model; its index is written beside it.")],
    base_model: BaseModels = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    mode: TrainingMode = None,
    keep_index: KeepIndex = None,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    remine: Remine = None,
    refit: RefitOn = None,
    late_interaction_weight: LateInteractionWeight = None,
    retention: Retention = None,
    also: Also = None,
    tasks: Tasks = None,
    device: Device = None,
    precision: Precision = None,
    resume: Resume = False,
    seed: Seed = None,
    nproc: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on training data; keeps the base model if tuning does not help."""
    settings = training_flags(context.params)

    def command() -> int:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.launch import launch_ranks
        from llama_index_ace_finetune.pipeline.train import train as train_model
        from llama_index_ace_finetune.training.config import TrainingConfig
        from llama_index_ace_finetune.training.ranks import launched_rank

        config = TrainingConfig(**settings, output_dir=str(out))
        rank = launched_rank()
        if rank is None and nproc and nproc > 1:
            return launch_ranks(sys.argv[1:], processes=nproc)
        result = train_model(training_data, config, resume=resume, events=ConsoleEvents())
        if not rank:
            print_trained(result)
        return 0

    execute(command, as_json=as_json)


def print_trained(result: TrainingResult) -> None:
    """Print the folders of the model and its index."""
    emit(
        {"model": str(result.model), "index": str(result.index), **result.metrics},
        lambda screen: screen.print(f"model   {result.model}\nindex   {result.index}", markup=False),
    )


VERB = Verb(
    train,
    (
        "ace-finetune train --training-data training_data.json --out my-model",
        "ace-finetune train --training-data training_data.json --out my-model --nproc 4",
    ),
)
