"""The original's second stage: `python -m llama_index_ace_finetune.finetune_embeddings` and its classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.training import config as training_config
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner

__all__ = ["EmbeddingFineTuner", "TrainingConfig", "main", "train_embedding_model"]

DEFAULT_DATA = "ace/embedding_finetuning/training_data.json"
DEFAULT_OUTPUT = "ace/embedding_finetuning/models/ace_finetuned"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(training_config.TrainingConfig):
    """`training.config.TrainingConfig` with the defaults that the original documents.

    `save_steps` is accepted for compatibility: the best weights of all dev evaluations are kept.
    """

    output_dir: str = DEFAULT_OUTPUT
    mode: Literal["auto"] | training_config.ModeName = "full"
    epochs: int = 3
    budget_minutes: float | None = None
    batch_size: int = 16
    learning_rate: float = 2e-5
    eval_steps: int | None = 50
    save_steps: int = 100


def train_embedding_model(
    training_data_path: str | Path,
    output_dir: str | Path = DEFAULT_OUTPUT,
    base_model: str = DEFAULT_BASE_MODEL,
    epochs: int = 3,
    batch_size: int = 16,
    learning_rate: float = 2e-5,
    device: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Train on a file and return the model folder and the metrics of training and dev."""
    tuner = EmbeddingFineTuner(
        TrainingConfig(
            output_dir=str(output_dir),
            base_model=base_model,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            device=device,
        )
    )
    tuner.load_training_data(training_data_path)
    tuner.initialize_model()
    metrics = tuner.train()
    return str(output_dir), {**metrics, **tuner.evaluate()}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the original's flags and defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_index_ace_finetune.finetune_embeddings", description="Fine-tune an embedding model."
    )
    parser.add_argument("--training-data", default=DEFAULT_DATA, help="file that the data generator wrote")
    parser.add_argument("--output-dir", default=DEFAULT_OUTPUT, help="folder for the model")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="hub name or folder")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--max-examples", type=int, help="train on a random sample of N examples")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="the best one by default")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from llama_index_ace_finetune.cli.execute import run_command
    from llama_index_ace_finetune.cli.progress import ConsoleEvents
    from llama_index_ace_finetune.cli.train import print_trained
    from llama_index_ace_finetune.pipeline.train import train

    options = build_parser().parse_args(arguments)

    def command() -> None:
        config = TrainingConfig(
            base_model=options.base_model,
            output_dir=options.output_dir,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup_steps=options.warmup_steps,
            device=options.device,
        )
        print_trained(train(options.training_data, config, max_examples=options.max_examples, events=ConsoleEvents()))

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
