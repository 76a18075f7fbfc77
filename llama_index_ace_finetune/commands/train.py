"""Train on a file of training data, and index its memories for the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.commands.console import console, steps_progress
from llama_index_ace_finetune.commands.index import index_beside, write_index
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_folder import check_replaceable


def train_model(data: Path | TrainingData, config: TrainingConfig) -> dict[str, Any]:
    """Train with a progress bar, print what dev says, save the winner, and return the training's metrics."""
    check_replaceable(Path(config.output_dir))
    screen = console()
    tuner = EmbeddingFineTuner(config)
    counts = tuner.load_training_data(data)
    screen.print(
        f"training on {counts['train']} queries, choosing on {counts['dev']}, over {counts['memories']} memories"
    )
    tuner.initialize_model()
    with steps_progress("training") as progress:
        metrics = tuner.train(progress=progress)
    screen.print(
        f"{metrics['total_steps']} steps in {metrics['training_time_seconds']:.0f} s "
        f"({metrics['examples_per_second']:.1f} queries/s)"
    )
    if tuner.selection:
        difference = tuner.selection.difference
        outcome = (
            f"ships {tuner.selection.share:.0%} tuned weights" if tuner.selection.ships_tuned else "ships the base"
        )
        interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
        screen.print(f"dev MRR@10 {difference.mean:+.3f} (95 % interval {interval}): {outcome}")
    return metrics


def train_and_index(path: Path, config: TrainingConfig, *, max_examples: int | None = None) -> Path:
    """`train_model` from a file, then an index of the file's memories beside the model; return the index's folder.

    With `max_examples`, a random sample of so many examples is trained and chosen on.
    """
    data = TrainingData.load(path)
    if max_examples is not None:
        data = data.sample(max_examples, seed=config.seed)
    model, index = Path(config.output_dir), index_beside(Path(config.output_dir))
    train_model(data, config)
    settings = EncoderSettings(device=config.device, precision="auto")
    write_index(
        [Memory(i, text, data.memory_metadata.get(i, {})) for i, text in data.memories.items()],
        tuned=Encoder.load(model, settings=settings),
        base=Encoder.load(config.base_model, settings=settings),
        path=index,
        replace=True,
    )
    return index
