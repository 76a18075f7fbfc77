"""Train on a file of training data, and index its memories for the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.commands.console import notes, steps_progress
from llama_index_ace_finetune.commands.index import index_beside, write_index
from llama_index_ace_finetune.commands.stages import by_content
from llama_index_ace_finetune.commands.work_folder import work_folder
from llama_index_ace_finetune.datasets.normalise import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.model_folder import check_replaceable


def train_model(
    data: Path | TrainingData,
    config: TrainingConfig,
    *,
    cache: Path | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Train with a progress bar, print what dev says, save the winner, and return the training's metrics."""
    check_replaceable(Path(config.output_dir))
    screen = notes()
    tuner = EmbeddingFineTuner(config, cache=cache, checkpoints=checkpoints)
    counts = tuner.load_training_data(data)
    screen.print(
        f"training on {counts['train']} queries, choosing on {counts['dev']}, over {counts['memories']} memories"
    )
    tuner.initialize_model()
    with steps_progress("training") as progress:
        metrics = tuner.train(
            progress=progress,
            on_mode_end=lambda result: screen.print(_told(result)),
            on_mode_start=lambda name, plan: screen.print(f"{name}: {plan.steps} steps, about {plan.seconds:.0f} s"),
        )
    screen.print("ships the base" if tuner.shipped is None else f"ships {tuner.shipped.name}")
    return metrics


def _told(result: ModeResult) -> str:
    if result.selection is None:
        return f"{result.name}: {result.steps} steps in {result.seconds:.0f} s, unchecked for want of dev queries"
    difference = result.selection.difference
    outcome = "better than the base" if result.ships else "not surely better than the base"
    record = result.selection.retention
    if record and record.losses:
        *_, lost = record.losses.values()
        if lost > record.bound:
            outcome = "kept back"
        outcome += f"; general queries lose {lost:+.3f} of MRR@10, {record.bound:g} is allowed"
    return (
        f"{result.name}: dev MRR@10 {difference.mean:+.3f} (95 % interval {difference.low:+.3f} to "
        f"{difference.high:+.3f}) in {result.seconds:.0f} s, {outcome}"
    )


def train_and_index(
    path: Path, config: TrainingConfig, *, max_examples: int | None = None, resume: bool = False
) -> tuple[Path, dict[str, Any]]:
    """`train_model` from a file, then an index of the file's memories beside the model.

    Returns the index's folder and the training's metrics.

    With `max_examples`, a random sample of so many examples is trained and chosen on; with `resume`, a training that
    was broken off goes on.
    """
    data = TrainingData.load(path)
    if max_examples is not None:
        data = data.sample(max_examples, seed=config.seed)
    model, index = Path(config.output_dir), index_beside(Path(config.output_dir))
    check_replaceable(model)
    settings_used = by_content(config.to_dict())
    inputs = {"data": text_hash(path.read_text("utf-8")), "max_examples": max_examples, "config": settings_used}
    with work_folder(model, inputs=inputs, resume=resume) as work:
        metrics = train_model(data, config, cache=work / "vectors", checkpoints=work / "training")
    settings = EncoderSettings(device=config.device, precision=config.precision)
    write_index(
        [Memory(i, text, data.memory_metadata.get(i, {})) for i, text in data.memories.items()],
        tuned=Encoder.load(model, settings=settings),
        base=Encoder.load(config.base_model, settings=settings),
        path=index,
        replace=True,
    )
    return index, metrics
