"""Loggers of the transformers trainer."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import integration_utils as known

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig

WANDB_PROJECT = "llama-index-ace-finetune"


def require_loggers(config: TrainingConfig) -> None:
    """Raise TrainingError where a logger of `config.report_to` is unknown or not installed."""
    for name in config.report_to:
        if name not in known.INTEGRATION_TO_CALLBACK:
            raise TrainingError(
                f"The training setting report_to names {name!r}, which is not a logger; choose from "
                f"{', '.join(sorted(known.INTEGRATION_TO_CALLBACK))}."
            )
        if name not in known.get_available_reporting_integrations():  # type: ignore[no-untyped-call]
            raise TrainingError(
                f"The training setting report_to names {name!r}, which is not installed; run `pip install {name}`, or "
                "leave it out."
            )


def logger_callbacks(config: TrainingConfig) -> list[TrainerCallback]:
    """Return the callbacks of `config.report_to`.

    Weights & Biases files the run under the project "llama-index-ace-finetune", unless WANDB_PROJECT is set.
    TensorBoard files go to `OUTPUT_DIR-logs` beside the model, unless TENSORBOARD_LOGGING_DIR is set: the trainer's
    working folder is deleted at the end.
    """
    if "wandb" in config.report_to:
        os.environ.setdefault("WANDB_PROJECT", WANDB_PROJECT)
    callbacks = [known.INTEGRATION_TO_CALLBACK[name]() for name in config.report_to]
    for callback in callbacks:
        if isinstance(callback, known.TensorBoardCallback) and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            output = Path(config.output_dir)
            callback.logging_dir = str(output.with_name(f"{output.name}-logs"))
    return callbacks
