"""Train on growing subsets of the data, and evaluate each model on the same unseen queries."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, LeakageError
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.report.learning_curve import LearningCurve, build_learning_curve
from llama_index_ace_finetune.evaluation.result import BASE, MEASURE, TUNED, Evaluation
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet, dense_system
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.train import train_model
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.inputs import MIN_EXAMPLES


def read_sizes(text: str) -> tuple[int, ...]:
    """Read `100,300,1000`.

    Raises:
        AceFinetuneError: for anything but whole numbers large enough to train on.
    """
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise AceFinetuneError(f"The sizes of the curve are {text!r}; write numbers such as 100,300,1000.") from error
    if sizes[0] < MIN_EXAMPLES:
        raise AceFinetuneError(
            f"The curve starts at {sizes[0]} training queries, but at least {MIN_EXAMPLES} are needed."
        )
    return sizes


def train_curve(
    evaluation: Evaluation,
    data: TrainingData,
    sizes: Sequence[int],
    *,
    record: Mapping[str, Any],
    device: str | None = None,
    cache: Path | None = None,
    seed: int = 0,
    events: PipelineEvents | None = None,
) -> LearningCurve:
    """Train a model per size with the settings of the evaluated one, which is the point of the whole data.

    Smaller subsets are part of larger ones; all have the same dev queries. The model that ships is evaluated, so a
    subset that is too small may give the base model.

    Args:
        evaluation: of the model, over the test queries.
        data: training data of the model.
        sizes: numbers of training queries; those of the whole data or more are skipped.
        record: of the model, for its settings.
        device: torch device.
        cache: folder for vectors.
        seed: of the subsets.
        events: receives progress.

    Raises:
        LeakageError: if the data hold a test query.
    """
    events = events or PipelineEvents()
    tested = {text_hash(query) for query in evaluation.data.queries}
    leaked = next((one for one in data.examples if text_hash(one.query) in tested), None)
    if leaked is not None:
        raise LeakageError(
            f"The training query {leaked.query_id!r} is one of the test queries; give the model's own data."
        )
    # As the evaluated model, which was not trained on test queries.
    refitted = shipped_refit(record)
    refit = "dev" if refitted and refitted["on"] == "dev" else "none"
    dev, train = data.examples_of("dev"), data.examples_of("train")
    order = random.Random(seed).sample(train, len(train))
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    settings = {name: value for name, value in (record.get("config") or {}).items() if name in known}
    values = {len(train): evaluation.values[TUNED][MEASURE]}
    with tempfile.TemporaryDirectory(prefix="ace-finetune-curve-") as scratch:
        for size in (size for size in sizes if size < len(train)):
            events.on_message(f"curve: {size} of {len(train)} training queries")
            folder = Path(scratch) / str(size)
            # The record names further datasets and the retention set, and does not say where they are.
            absent = {"also": (), "retention": None}
            given = {**settings, **absent, "refit": refit, "output_dir": str(folder), "device": device}
            config = TrainingConfig(**given)
            part = dataclasses.replace(data, examples=(*order[:size], *dev))
            train_model(part, config, cache=cache, events=events)
            values[size] = _tested(evaluation.data, folder, device)
    return build_learning_curve(
        values, evaluation.values[BASE][MEASURE], measure=MEASURE, groups=evaluation.data.groups
    )


def _tested(data: EvaluationSet, model: Path, device: str | None) -> Any:
    encoder = Encoder.load(model, settings=EncoderSettings(device=device, precision="auto"))
    system = dense_system(data, EncodedSet.of(data, encoder), name=TUNED)
    return per_query(MRR(10), system.rankings, data.qrels)
