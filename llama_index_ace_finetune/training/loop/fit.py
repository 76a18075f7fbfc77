"""Run the sentence-transformers trainer over our batches and a loss."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.remined_negatives import ReminedNegatives
from llama_index_ace_finetune.training.data.task_batches import TaskBatches
from llama_index_ace_finetune.training.loop.budget import DoesNotFitError, EvaluationCost, StepPlan
from llama_index_ace_finetune.training.loop.callback import (
    DevEvaluationCallback,
    StoppedEarly,
    last_checkpoint,
    step_of,
)
from llama_index_ace_finetune.training.loop.loggers import logger_callbacks
from llama_index_ace_finetune.training.loop.oom import retry_on_oom
from llama_index_ace_finetune.training.loop.step_schedule import StepSchedule
from llama_index_ace_finetune.training.loop.trainer import ContrastiveTrainer, training_arguments
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

logger = logging.getLogger(__name__)

_PLAN = "plan.json"
_SAVED_SECONDS = 60

OnPlan = Callable[[StepPlan], None]


class Fitted(NamedTuple):
    """Steps and epochs done, and the step at which the learning rate was, or would have been, zero."""

    steps: int
    epochs: float
    scheduled: int


class Collator(Protocol):
    """Turns rows {"example": number} into feature tensors named `query_...` and `document_...`, and `label`."""

    epoch: int
    batch: int
    valid_label_columns: list[str]

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Build one batch."""
        ...


def fit(
    encoder: Encoder,
    *,
    loss: nn.Module,
    collator: Callable[[], Collator],
    query_ids: Sequence[str],
    config: TrainingConfig,
    minutes: float | None,
    callbacks: Sequence[DevEvaluationCallback],
    evaluation_cost: EvaluationCost | None = None,
    on_plan: OnPlan | None = None,
    checkpoints: Path | None = None,
    batches: BatchSampler | None = None,
    least_epochs: float = 0.0,
    steps: int | None = None,
    scheduled: int | None = None,
    remined: ReminedNegatives | None = None,
    after_backward: Callable[[], object] = lambda: None,
) -> Fitted:
    """Train `encoder.model` in place.

    Args:
        encoder: the model.
        loss: over the feature blocks and the labels of a batch; its `memory` is an `ChunkLimits`.
        collator: makes a fresh collator; one is used up to measure a step.
        query_ids: one per example, of all tasks if `batches` are of several.
        config: epochs, batch size, schedule, seed.
        minutes: of training and dev evaluations; if the epochs would take longer, fewer steps are planned, and fewer
            still if steps turn out slower than planned. None trains all epochs.
        callbacks: of the training.
        evaluation_cost: seconds of the dev evaluations; None counts none.
        on_plan: called with the plan before the first step.
        checkpoints: folder for the plan and for checkpoints about once a minute; an existing checkpoint is resumed, and
            the result equals that of an uninterrupted training. None saves none.
        batches: which examples each batch holds; None draws them at random.
        least_epochs: raise DoesNotFitError if fewer fit.
        steps: train exactly N steps, and raise DoesNotFitError if they do not fit.
        scheduled: with `steps`, the step at which the learning rate would be zero; None for the last one.
        remined: mines negatives again, `config.remine` times or as often as fits; the callbacks call it after a step.
        after_backward: called when the gradients of a step are computed, before they are used.
    """
    from datasets import Dataset
    from transformers import PrinterCallback

    model, bfloat16, count = encoder.model, encoder.settings.precision == "bfloat16", len(query_ids)
    plan = _kept_plan(checkpoints)
    # Steps are timed before the trainer moves the buffers of the loss to the device.
    loss.to(model.device)
    if plan is None:
        plan = plan_steps(
            loss,
            collator(),
            count=count,
            config=config,
            minutes=minutes,
            bfloat16=bfloat16,
            evaluation_cost=evaluation_cost,
            batches=batches,
            least_epochs=least_epochs,
            fixed=steps,
            after_backward=after_backward,
        )
        plan = replace(plan, scheduled=scheduled or 0)

    def keep(current: StepPlan) -> None:
        if checkpoints:
            write_json(checkpoints / _PLAN, asdict(current))

    keep(plan)
    schedule = StepSchedule(plan, warmup_steps=min(config.warmup_steps, plan.planned_schedule // 10), on_shortened=keep)
    last = last_checkpoint(checkpoints)
    if remined:
        remined.begin(plan.remine_after, folder=checkpoints, resumed_at=step_of(last) if last else 0)
        if plan.remine < config.remine:
            logger.warning(
                "negatives are mined again %d times instead of %d, for lack of time or steps",
                plan.remine,
                config.remine,
            )
    if on_plan:
        on_plan(plan)
    collate = collator()
    with tempfile.TemporaryDirectory(prefix="ace-finetune-") as scratch:
        args = training_arguments(
            config,
            steps=plan.last_step,
            device=model.device.type,
            bfloat16=bfloat16,
            folder=str(checkpoints or scratch),
            save_steps=max(1, round(plan.steps * _SAVED_SECONDS / max(plan.seconds, 1))) if checkpoints else None,
        )
        trainer = ContrastiveTrainer(
            memory=cast(ChunkLimits, loss.memory),
            query_ids=query_ids,
            dev_callbacks=callbacks,
            batches=batches,
            after_backward=after_backward,
            schedule=schedule,
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"example": list(range(count))}),
            loss=loss,
            data_collator=collate,
            callbacks=[schedule, _SetEpoch(collate), *callbacks, *logger_callbacks(config)],
        )
        trainer.remove_callback(PrinterCallback)
        for callback in callbacks:
            callback.log = trainer.log
        if last:
            for callback in callbacks:
                callback.restore(last)
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        except StoppedEarly:
            pass  # before the checkpoint was saved: nothing is left to train
        except ModelError as error:
            # Only dev evaluations embed texts here.
            raise trainer.broken("The weights have become NaN", step=trainer.state.global_step) from error
    model.eval()
    encoder.weights_changed()
    return Fitted(int(trainer.state.global_step), float(trainer.state.epoch or 0.0), schedule.plan.schedule_steps)


class _SetEpoch(TrainerCallback):
    """Sets the epoch and the number of batches of the collator, also in a resumed training."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._collator.epoch = int((state.epoch or 0.0) + 1e-6)
        self._collator.batch = int(state.global_step)


def _kept_plan(folder: Path | None) -> StepPlan | None:
    file = folder / _PLAN if folder else None
    if file is None or not file.is_file():
        return None
    refusal = Refusal("The checkpoint", "delete the checkpoints and train again", TrainingError)
    return checked(read_json_object(file, refusal), StepPlan, file, refusal)


def plan_steps(
    loss: nn.Module,
    collator: Collator,
    *,
    count: int,
    config: TrainingConfig,
    minutes: float | None,
    bfloat16: bool,
    evaluation_cost: EvaluationCost | None,
    batches: BatchSampler | None = None,
    least_epochs: float = 0.0,
    fixed: int | None = None,
    after_backward: Callable[[], object] = lambda: None,
) -> StepPlan:
    """Return the steps of `config.epochs`, or as many as fit into `minutes`, or the `fixed`; see `StepPlan.within`.

    The time of a step is measured on a batch spread over the examples, forward and backward, without changing the
    model; of several tasks it is the mean of theirs, weighted by the number of their batches. Raises DoesNotFitError if
    only one step fits, which is no training, less than `least_epochs`, or not all of the `fixed` steps.
    """
    if isinstance(batches, TaskBatches):
        an_epoch, measured = len(batches), batches.measured(config.batch_size)
    else:
        an_epoch = -(-count // config.batch_size)
        measured = [(1.0, list(range(0, count, max(1, count // config.batch_size)))[: config.batch_size])]
    seconds = sum(
        part
        * min(
            _step_seconds(loss, collator, numbers, bfloat16=bfloat16, after_backward=after_backward) for _ in range(2)
        )
        for part, numbers in measured
    )
    plan = StepPlan.within(
        None if minutes is None else minutes * 60,
        steps=fixed or an_epoch * config.epochs,
        step_seconds=seconds,
        evaluate_every=config.eval_steps or an_epoch,
        evaluation_cost=evaluation_cost or EvaluationCost(),
        remine=config.remine,
    )
    if fixed and plan.steps < fixed:
        raise DoesNotFitError(plan.seconds * fixed / plan.steps, f"{fixed} steps take")
    if fixed:
        plan = replace(plan, limit=None)
    if not fixed and plan.steps == 1 < an_epoch * config.epochs:
        raise DoesNotFitError(plan.seconds)
    if plan.steps < least_epochs * an_epoch:
        raise DoesNotFitError(plan.seconds * least_epochs * an_epoch / plan.steps, f"{least_epochs:g} epochs take")
    return plan


def _step_seconds(
    loss: nn.Module,
    collator: Collator,
    numbers: list[int],
    *,
    bfloat16: bool,
    after_backward: Callable[[], object] = lambda: None,
) -> float:
    model: nn.Module = loss.model  # type: ignore[assignment]
    device = next(model.parameters()).device
    state = torch.get_rng_state()
    begun = time.perf_counter()
    batch = collator([{"example": number} for number in numbers])
    taken = time.perf_counter() - begun
    blocks = [
        {
            name.removeprefix(f"{role}_"): value.to(device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
            if name.startswith(f"{role}_")
        }
        for role in ("query", "document")
    ]
    model.train()

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss(blocks, batch["label"].to(device)).backward()
        after_backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    taken += retry_on_oom(step, memory=cast(ChunkLimits, loss.memory), model=loss)
    loss.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    return taken
