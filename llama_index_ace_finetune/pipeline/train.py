"""Train on a file of training data, and index its memories for the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.pipeline.index import check_index_output, index_beside, place_index, write_index
from llama_index_ace_finetune.pipeline.stages import by_content
from llama_index_ace_finetune.pipeline.work_folder import work_folder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.model_folder import MODEL
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.console import notes, steps_progress
from llama_index_ace_finetune.utils.new_folder import place_folder, require_replaceable, tidy


def train_model(
    data: Path | TrainingData,
    config: TrainingConfig,
    *,
    cache: Path | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Train with a progress bar, print what dev says, save the winner, and return the training's metrics."""
    require_replaceable(Path(config.output_dir), kind=MODEL)
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

    Both are made in the work folder, and take the places of older ones once both are whole.

    Returns the index's folder and the training's metrics.

    With `max_examples`, a random sample of so many examples is trained and chosen on; with `resume`, a training that
    was interrupted is resumed, and one that was done is not repeated.
    """
    data = TrainingData.load(path)
    if max_examples is not None:
        data = data.sample(max_examples, seed=config.seed)
    model, index = Path(config.output_dir), index_beside(Path(config.output_dir))
    tidy(model)
    require_replaceable(model, kind=MODEL)
    check_index_output(index, replace=True)
    settings_used = by_content(config.to_dict())
    inputs = {"data": text_hash(path.read_text("utf-8")), "max_examples": max_examples, "config": settings_used}
    with work_folder(model, inputs=inputs, resume=resume) as work:
        made, metrics = _trained(data, config, work)
        settings = EncoderSettings(device=config.device, precision=config.precision)
        tuned = Encoder.load(made, settings=settings)
        tuned.name = str(model)  # where it is from now on, for the index's record
        write_index(
            [Memory(i, text, data.memory_metadata.get(i, {})) for i, text in data.memories.items()],
            tuned=tuned,
            base=Encoder.load(config.base_model, settings=settings),
            path=work / "index",
            replace=True,
            cache=work / "vectors",
        )
        if made != model:
            place_folder(made, model, kind=MODEL)
        place_index(work / "index", index)
    return index, metrics


def _trained(data: TrainingData, config: TrainingConfig, work: Path) -> tuple[Path, dict[str, Any]]:
    """Return the trained model's folder and its metrics: from the work folder, where an interrupted command left it."""
    model, done = Path(config.output_dir), work / "trained.json"
    if done.is_file():
        record = json.loads(done.read_text(encoding="utf-8"))
        for folder in (work / "model", model):  # it may have been moved to its place already
            if folder.is_dir() and fingerprint_folder(folder, {}) == record["fingerprint"]:
                notes().print("training: kept, since it was done")
                return folder, record["metrics"]
    metrics = train_model(
        data, replace(config, output_dir=str(work / "model")), cache=work / "vectors", checkpoints=work / "training"
    )
    write_json(done, {"fingerprint": fingerprint_folder(work / "model", {}), "metrics": metrics})
    return work / "model", metrics
