"""Train on a file of training data, and index its memories for the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.pipeline.choose_base import is_choice, with_one_base
from llama_index_ace_finetune.pipeline.dev_queries import dev_of_training_data
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.further_content import further_content
from llama_index_ace_finetune.pipeline.index import check_index_output, place_index, write_index
from llama_index_ace_finetune.pipeline.model_contents import by_content
from llama_index_ace_finetune.pipeline.work_folder import work_folder
from llama_index_ace_finetune.run_folder import index_beside
from llama_index_ace_finetune.training.base_encoding import base_encoding
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.base_choice import BaseChoice
from llama_index_ace_finetune.training.modes.assist import assist, finish
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.ranks import ONE, Ranks, join_ranks
from llama_index_ace_finetune.training.saving.model_folder import MODEL
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.new_folder import place_folder, require_replaceable, tidy


def train_model(
    data: Path | TrainingData,
    config: TrainingConfig,
    *,
    cache: Path | None = None,
    checkpoints: Path | None = None,
    held_out_queries: Iterable[str] = (),
    bases: BaseChoice | None = None,
    selected: Path | None = None,
    events: PipelineEvents | None = None,
    ranks: Ranks = ONE,
) -> dict[str, Any]:
    """Train, report the result on dev, save the best model, and return the metrics of the training.

    `held_out_queries` are texts as in `EmbeddingFineTuner.load_training_data`; `bases` says how the base model was
    chosen, for the metrics; `selected` is a folder as in `EmbeddingFineTuner`.
    """
    require_replaceable(Path(config.output_dir), kind=MODEL)
    events = events or PipelineEvents()
    tuner = EmbeddingFineTuner(config, cache=cache, checkpoints=checkpoints, ranks=ranks, selected=selected)
    tuner.bases = bases
    counts = tuner.load_training_data(data, held_out_queries=held_out_queries)
    events.on_message(
        f"training on {counts['train']} queries, selecting on {counts['dev']}, over {counts['memories']} memories"
    )
    tuner.initialize_model()
    with events.steps_progress("training") as progress:
        metrics = tuner.train(
            progress=progress,
            on_mode_end=lambda result: events.on_message(describe_mode(result)),
            on_mode_start=lambda name, plan: events.on_message(
                f"{name}: {steps_text(plan.steps)}, about {plan.seconds:.0f} s"
            ),
            on_phase=events.on_phase,
        )
    if tuner.synthetic:
        events.on_message(str(tuner.synthetic))
    for task in tuner.tasks:
        events.on_message(str(task))
    if tuner.refit:
        events.on_message(str(tuner.refit))
    events.on_message("ships the base" if tuner.shipped is None else f"ships {tuner.shipped.name}")
    return metrics


def steps_text(count: int) -> str:
    """Return "1 step" or "N steps"."""
    return "1 step" if count == 1 else f"{count} steps"


def describe_mode(result: ModeResult) -> str:
    """Return the result of a training mode as one line."""
    if result.selection is None:
        return f"{result.name}: {steps_text(result.steps)} in {result.seconds:.0f} s, not validated (no dev queries)"
    difference = result.selection.difference
    outcome = "better than the base" if result.ships else f"{difference.not_a_gain}: base kept"
    record = result.selection.retention
    if record and record.losses:
        *_, lost = record.losses.values()
        if lost > record.bound:
            outcome = "rejected (forgetting)"
        outcome += f"; general queries lose {lost:+.3f} of MRR@10, {record.bound:g} is allowed"
    late = result.selection.late_interaction
    if late and result.ships:
        verb = "improves" if late.is_better else "does not improve"
        outcome += f"; re-ranking by MaxSim {verb}, from {late.base:.3f} to {late.shipped:.3f}"
    return f"{result.name}: dev MRR@10 {difference} in {result.seconds:.0f} s, {outcome}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """Folders of the model and of its index, and the metrics of the training."""

    model: Path
    index: Path
    metrics: dict[str, Any]


def train(
    training_data: str | Path | TrainingData,
    config: TrainingConfig | None = None,
    *,
    out: str | Path | None = None,
    max_examples: int | None = None,
    resume: bool = False,
    events: PipelineEvents | None = None,
) -> TrainingResult:
    """Train on a file of training data, and write the model and an index of the file's memories beside it.

    Both are written to a work folder, and replace older ones when both are complete. If no mode improves on dev, the
    model is the base model.

    In a process that torchrun started, all of them call it with the same arguments: they divide the batches of modes
    `in_batch` and `full`, the first one does all else, and all return its result.

    Args:
        training_data: file that `generate` wrote, or its content.
        config: settings of the training.
        out: folder of the model; the output_dir of `config` by default.
        max_examples: train and evaluate on a random sample of N examples.
        resume: resume an interrupted training with the same data and settings; a finished one is not repeated.
        events: receives progress.

    Raises:
        AceFinetuneError: for training data that cannot be read, an output that cannot be replaced, or a training that
            fails.
    """
    config = config or TrainingConfig()
    if out is not None:
        config = replace(config, output_dir=str(out))
    with join_ranks(device=config.device) as ranks:
        return _train_and_index(
            training_data, config, max_examples=max_examples, resume=resume, events=events, ranks=ranks
        )


def _train_and_index(
    training_data: str | Path | TrainingData,
    config: TrainingConfig,
    *,
    max_examples: int | None,
    resume: bool,
    events: PipelineEvents | None,
    ranks: Ranks,
) -> TrainingResult:
    data = training_data if isinstance(training_data, TrainingData) else TrainingData.load(Path(training_data))
    content = json.dumps(data.to_dict()) if data is training_data else Path(str(training_data)).read_text("utf-8")
    if max_examples is not None:
        data = data.sample(max_examples, seed=config.seed)
    # What every process does is reported by one.
    events, bases = (events if events and ranks.is_main else PipelineEvents()), None
    if is_choice(config.base_model):
        # Every process compares them: the choice does not depend on its speed.
        config, bases = with_one_base(config, dev_of_training_data(data, config), events)
    settings_used = by_content(config.to_dict())
    inputs: dict[str, Any] = {"data": text_hash(content), "max_examples": max_examples, "config": settings_used}
    if config.also:
        inputs["also"] = [further_content(path) for path in config.also]
    ranks.agree(
        {
            "version of this package": __version__,
            "content of the training data": str(inputs["data"]),
            "configuration": text_hash(json.dumps(inputs, sort_keys=True, default=str)),
        }
    )
    if not ranks.is_main:
        result: TrainingResult = assist(ranks, config)
        return result
    model, index = Path(config.output_dir), index_beside(Path(config.output_dir))
    tidy(model)
    require_replaceable(model, kind=MODEL)
    check_index_output(index, replace=True)
    with work_folder(model, inputs=inputs, resume=resume, events=events) as work:
        made, metrics = _trained(data, config, work, bases, events, ranks)
        settings = EncoderSettings(device=config.device, precision=config.precision)
        tuned = Encoder.load(made, settings=settings)
        tuned.name = str(model)  # its final place, for the index's record
        write_index(
            [Memory(i, text, data.memory_metadata.get(i, {})) for i, text in data.memories.items()],
            tuned=tuned,
            base=Encoder.load(config.base_model, settings=base_encoding(config)),
            path=work / "index",
            replace=True,
            cache=work / "vectors",
            events=events,
        )
        logs = work / "model-logs"
        if logs.is_dir():  # of a logger that writes files
            shutil.copytree(logs, model.with_name(f"{model.name}-logs"), dirs_exist_ok=True)
        if made != model:
            place_folder(made, model, kind=MODEL)
        place_index(work / "index", index)
    result = TrainingResult(model=model, index=index, metrics=metrics)
    finish(ranks, result)
    return result


def _trained(
    data: TrainingData,
    config: TrainingConfig,
    work: Path,
    bases: BaseChoice | None,
    events: PipelineEvents,
    ranks: Ranks,
) -> tuple[Path, dict[str, Any]]:
    """Return the trained model's folder and its metrics: from the work folder if an interrupted command left it."""
    model, done = Path(config.output_dir), work / "trained.json"
    if done.is_file():
        record = json.loads(done.read_text(encoding="utf-8"))
        for folder in (work / "model", model):  # it may have been moved to its place already
            if folder.is_dir() and fingerprint_folder(folder, {}) == record["fingerprint"]:
                events.on_message("training: kept, since it was done")
                return folder, record["metrics"]
    metrics = train_model(
        data,
        replace(config, output_dir=str(work / "model")),
        cache=work / "vectors",
        checkpoints=work / "training",
        bases=bases,
        events=events,
        ranks=ranks,
    )
    write_json(done, {"fingerprint": fingerprint_folder(work / "model", {}), "metrics": metrics})
    return work / "model", metrics
