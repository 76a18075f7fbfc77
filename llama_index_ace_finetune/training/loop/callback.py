"""Trainer callback: reports progress, evaluates on dev, keeps the best weights, stops early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import TypedDict

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.safetensors_header import read_safetensors_header
from llama_index_ace_finetune.utils.validation import checked

CALLBACK_STATE = "callback_state.json"
_CHECKPOINT = Refusal("The checkpoint", "delete the checkpoints and train again", TrainingError)
_WEIGHTS = "best.safetensors"
_PROJECTION = "projection.safetensors"

StepProgress = Callable[[int, int, dict[str, float]], None]


class _Seen(TypedDict):
    history: list[dict[str, Any]]
    best: float | None
    without_gain: int
    evaluated_at: int
    mrr: list[float] | None
    means: dict[str, float] | None


class StoppedEarly(Exception):
    """The resumed checkpoint had already stopped early."""


class DevEvaluationCallback(TrainerCallback):
    """Evaluates on dev, keeps the best weights and stops early.

    `history` holds one row per logged step or evaluation: step, epoch, loss or dev measures.

    Args:
        encoder: the model that is evaluated and whose weights are kept.
        dev: the dev queries; without them the last weights count as the best.
        base_scores: of the base model on them.
        eval_steps: evaluate every N steps; None evaluates after each epoch.
        patience: stop after N evaluations in a row without a new best; None never stops early.
        progress: called after each optimiser step with its number, the total, and the latest metrics.
        on_evaluation: called with True when an evaluation begins, and with False when it ends.
        before_evaluation: called before each evaluation, to copy weights into `encoder` if another model is trained.
        projection: of token vectors, trained along with the model; it is kept with the best weights and in checkpoints.
        after_step: called with the number of each step after it; rates leave out its time.
    """

    def __init__(
        self,
        encoder: Encoder,
        dev: DevSet | None,
        *,
        base_scores: DevScores | None,
        eval_steps: int | None,
        patience: int | None,
        progress: StepProgress | None = None,
        on_evaluation: Callable[[bool], object] | None = None,
        before_evaluation: Callable[[], object] | None = None,
        projection: nn.Parameter | None = None,
        after_step: Callable[[int], object] | None = None,
    ) -> None:
        self.history: list[dict[str, float]] = []
        self.log: Callable[[dict[str, float]], object] = lambda measures: None  # `fit` sets that of the trainer
        self.best_weights: dict[str, Tensor] | None = None
        self.best_scores: DevScores | None = None
        self.best_projection: Tensor | None = None
        self._encoder = encoder
        self._dev = dev
        self._eval_steps = eval_steps
        self._patience = patience
        self._progress = progress
        self._on_evaluation = on_evaluation or (lambda begins: None)
        self._before_evaluation = before_evaluation
        self._projection = projection
        self._after_step = after_step
        self._best = -math.inf
        self._without_gain = 0
        self._evaluated_at = -1
        self._latest: dict[str, float] = {}
        self._examples = self._tokens = 0
        self._seconds = self._since = 0.0
        if base_scores is not None:
            self.history.append({"step": 0, "epoch": 0.0, **base_scores.means})

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Run the end-of-epoch evaluation that the interrupted run missed.

        Raises:
            StoppedEarly: if the training is out of patience after that.
        """
        if state.global_step and not self._eval_steps and float(state.epoch or 0.0).is_integer():
            self._evaluate(state, control)
        if self._out_of_patience:
            raise StoppedEarly
        self._since = time.perf_counter()

    def count(self, examples: int, tokens: int) -> None:
        """Count the examples and tokens of the current step."""
        self._examples += examples
        self._tokens += tokens

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keep the loss."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        self._latest["loss"] = loss
        self.history.append({"step": state.global_step, "epoch": state.epoch or 0.0, "loss": loss})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report the step; evaluate every `eval_steps`. Rates leave out the dev evaluations."""
        self._seconds += time.perf_counter() - self._since
        for name, count in (("examples/s", self._examples), ("tokens/s", self._tokens)):
            if count:
                self._latest[name] = count / self._seconds
        if self._eval_steps and state.global_step % self._eval_steps == 0:
            self._evaluate(state, control)
        if self._after_step:
            self._after_step(state.global_step)
        if self._progress:
            self._progress(state.global_step, state.max_steps, dict(self._latest))
        self._since = time.perf_counter()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate after each epoch if `eval_steps` is not set."""
        if not self._eval_steps:
            self._evaluate(state, control)
        self._since = time.perf_counter()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the last weights if that has not been done."""
        if state.global_step and self._evaluated_at != state.global_step:
            self._evaluate(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the state of this callback with the checkpoint; a checkpoint without it is incomplete."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if self.best_weights is not None:
            save_file(self.best_weights, folder / _WEIGHTS)
        if self._projection is not None:
            best = {} if self.best_projection is None else {"best": self.best_projection}
            save_file({"current": self._projection.detach().cpu(), **best}, folder / _PROJECTION)
        scores = self.best_scores
        seen = {
            "history": self.history,
            "best": self._best if self.best_scores else None,
            "without_gain": self._without_gain,
            "evaluated_at": self._evaluated_at,
            "mrr": scores.mrr.tolist() if scores else None,
            "means": scores.means if scores else None,
        }
        write_json(folder / CALLBACK_STATE, seen)

    def restore(self, checkpoint: Path) -> None:
        """Restore the state that `on_save` wrote."""
        seen = checked(
            read_json_object(checkpoint / CALLBACK_STATE, _CHECKPOINT), _Seen, checkpoint / CALLBACK_STATE, _CHECKPOINT
        )
        self.history = seen["history"]
        self._without_gain, self._evaluated_at = seen["without_gain"], seen["evaluated_at"]
        if (checkpoint / _WEIGHTS).is_file():
            read_safetensors_header(checkpoint / _WEIGHTS, _CHECKPOINT)
            self.best_weights = load_file(checkpoint / _WEIGHTS)
        if self._projection is not None:
            tensors = read_safetensors_header(checkpoint / _PROJECTION, _CHECKPOINT)
            if "current" not in tensors or {one.shape for one in tensors.values()} != {self._projection.shape}:
                raise _CHECKPOINT.because(checkpoint / _PROJECTION, "is of another projection")
            kept = load_file(checkpoint / _PROJECTION)
            self._projection.data.copy_(kept["current"])
            self.best_projection = kept.get("best")
        if seen["mrr"] is not None and seen["best"] is not None and seen["means"] is not None:
            self._best = seen["best"]
            self.best_scores = DevScores(mrr=np.array(seen["mrr"], np.float64), means=seen["means"])

    def _evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        if self._evaluated_at == state.global_step:
            return
        self._evaluated_at = state.global_step
        if self._before_evaluation:
            self._before_evaluation()
        if self._dev is None:
            self._keep_weights()
            return
        self._on_evaluation(True)
        model = self._encoder.model
        training = model.training
        model.eval()
        self._encoder.weights_changed()
        scores = self._dev.score(self._encoder)
        model.train(training)
        self._on_evaluation(False)
        self._latest["dev_mrr"] = float(scores.mrr.mean())
        self.history.append({"step": state.global_step, "epoch": state.epoch or 0.0, **scores.means})
        # Loggers file a name that begins with "eval_" under "eval/".
        self.log({f"eval_dev_{name}": value for name, value in scores.means.items()})
        if scores.mrr.mean() > self._best:
            self._best = float(scores.mrr.mean())
            self._without_gain = 0
            self.best_scores = scores
            self._keep_weights()
            return
        self._without_gain += 1
        if self._out_of_patience:
            control.should_training_stop = True

    def _keep_weights(self) -> None:
        self.best_weights = copy_weights(self._encoder)
        if self._projection is not None:
            self.best_projection = self._projection.detach().cpu().clone()

    @property
    def _out_of_patience(self) -> bool:
        return self._patience is not None and self._without_gain >= self._patience


def last_checkpoint(folder: Path | None) -> Path | None:
    """Return the newest complete checkpoint in `folder`, None if there is none."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{CALLBACK_STATE}")] if folder else []
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])
