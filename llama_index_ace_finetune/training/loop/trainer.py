"""The sentence-transformers trainer and its arguments."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback, last_checkpoint
from llama_index_ace_finetune.training.loop.divergence import DivergenceMonitor
from llama_index_ace_finetune.training.loop.oom import retry_on_oom
from llama_index_ace_finetune.training.loop.step_schedule import StepSchedule
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits

_LOGGED_STEPS = 50
_SHOWN_IDS = 3


class ContrastiveTrainer(SentenceTransformerTrainer):
    """Trainer that retries out-of-memory steps in smaller chunks and raises when the loss diverges.

    It writes no model card; `saving.model_card` does.

    Args:
        memory: chunk limits of the loss; shrunk when the device is out of memory.
        query_ids: one per example, for messages.
        dev_callbacks: count the examples and tokens of each step.
        batches: which examples each batch holds; None draws them at random.
        after_backward: called when the gradients of a step are computed, before they are used.
        schedule: gives the learning rate.
        arguments: of the stock trainer, by name.
    """

    def __init__(
        self,
        *,
        memory: ChunkLimits,
        query_ids: Sequence[str],
        dev_callbacks: Sequence[DevEvaluationCallback] = (),
        batches: BatchSampler | None = None,
        after_backward: Callable[[], object] = lambda: None,
        schedule: StepSchedule,
        **arguments: Any,
    ) -> None:
        self._batches = batches
        self._schedule = schedule
        super().__init__(**arguments)
        self._memory = memory
        self._query_ids = query_ids
        self._examples: list[int] = []
        self._dev_callbacks = dev_callbacks
        self._after_backward = after_backward
        self._monitor = DivergenceMonitor()

    def get_batch_sampler(self, *arguments: Any, **options: Any) -> BatchSampler | None:
        """Return `batches`, or the stock sampler."""
        return self._batches or super().get_batch_sampler(*arguments, **options)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Return a scheduler that follows `schedule`."""
        schedule, optimizer = self._schedule, optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(cast(Optimizer, optimizer), lambda step: schedule.factor(step))
        return self.lr_scheduler

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add nothing: the stock callback would sample texts of the training data into the card."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Tensor:
        """Take a step; in smaller chunks, with the same gradients, if the batch does not fit.

        Raises:
            TrainingError: if the loss is NaN or infinite or diverges, or a single text does not fit.
        """
        step = super().training_step
        # The loss holds the model, and may have further weights.
        loss = retry_on_oom(
            lambda: step(model, inputs, *arguments, **options), memory=self._memory, model=cast(nn.Module, self.loss)
        )
        self._after_backward()
        self._examples = inputs["example"].tolist()
        value = float(loss)
        if not math.isfinite(value):
            raise self.broken(f"The loss is {value}", step=self.state.global_step + 1)
        if self._monitor.diverges(value):
            raise TrainingError(
                f"The loss has risen from {self._monitor.first:.3g} to {self._monitor.latest:.3g} at "
                f"{self._place(self.state.global_step + 1)}; lower the learning rate."
            )
        masks = {name: mask for name, mask in inputs.items() if name.endswith("attention_mask")}
        for callback in self._dev_callbacks if masks else ():
            callback.count(len(masks["query_attention_mask"]), sum(int(mask.sum()) for mask in masks.values()))
        return loss

    def broken(self, what: str, *, step: int) -> TrainingError:
        """Return the error for weights that have become NaN, and remove their checkpoint, the newest.

        `step` is the step at which it was noticed; the batch named is the last that was trained.
        """
        shutil.rmtree(self._folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
        return TrainingError(f"{what} at {self._place(step)}; lower the learning rate or set precision to float32.")

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _place(self, step: int) -> str:
        """The step, the first queries of its batch by id, and the last good checkpoint where there is one."""
        shown = [self._query_ids[number] for number in self._examples[:_SHOWN_IDS]]
        more = len(self._examples) - len(shown)
        batch = f" (queries {', '.join(shown)}{f' and {more} more' if more else ''})" if shown else ""
        kept = last_checkpoint(self._folder)
        return f"step {step}{batch}{f', and {str(kept)!r} is the last good' if kept else ''}"


def training_arguments(
    config: TrainingConfig, *, steps: int, device: str, bfloat16: bool, folder: str, save_steps: int | None = None
) -> SentenceTransformerTrainingArguments:
    """Return the trainer's arguments for `steps` optimiser steps; the callback evaluates on dev.

    Checkpoints go to `folder` every `save_steps`; None saves none.
    """
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        bf16=bfloat16,
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=max(1, steps // _LOGGED_STEPS),
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process trains on one GPU; DataParallel cannot take these batches
    return arguments
