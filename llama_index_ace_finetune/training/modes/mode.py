"""What every training mode has: a name, what it needs and keeps, how it trains, how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.modes.result import ModeResult


class TrainMode(Protocol):
    """Trains the base model of a context by one mode."""

    def __call__(
        self,
        context: TrainingContext,
        *,
        previous: Sequence[ModeResult],
        minutes: float | None,
        progress: StepProgress | None,
        on_plan: OnPlan | None,
    ) -> ModeResult:
        """Train and evaluate on dev.

        Args:
            context: base model, examples, settings.
            previous: results of the modes that ran before.
            minutes: of training and dev evaluations, at most; None trains all epochs.
            progress: called after each optimiser step.
            on_plan: called with the planned steps before the first.
        """


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured seconds: per character embedded, per character trained on, per step of the linear adapter."""

    embed: float
    train: float
    linear_step: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSizes:
    """Counts and characters of the queries and of the corpus of a further task.

    `with_negatives` are the queries with negatives, `judged_queries` those with memories that the data label as
    irrelevant.
    """

    queries: int
    query_characters: int
    memories: int
    corpus_characters: int
    with_negatives: int = 0
    judged_queries: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSizes:
    """Characters that the model sees of the train queries, dev queries and corpus; counts of queries and memories.

    `judged_queries` are the train queries with memories that the data label as irrelevant, `tasks` the further tasks.
    """

    train: int
    dev: int
    corpus: int
    train_queries: int
    memories: int
    judged_queries: int = 0
    tasks: tuple[TaskSizes, ...] = ()


@dataclass(frozen=True, slots=True)
class ModeEstimate:
    """What a mode will do, for people, and the seconds that it is expected to take."""

    description: str
    seconds: float


class Estimate(Protocol):
    """Returns what a mode will do, and how long it takes."""

    def __call__(
        self,
        config: TrainingConfig,
        sizes: TrainingSizes,
        speed: Speed,
        *,
        seconds: float | None,
        after: Sequence[str],
    ) -> ModeEstimate:
        """Estimate one mode.

        Args:
            config: of the training.
            sizes: of its data.
            speed: measured with its model.
            seconds: that are left of the budget; None without a limit.
            after: names of the modes that run before.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """A training mode. A new one is a file in this folder with a `MODE`, and its name in `config.ModeName`.

    Attributes:
        name: as `TrainingConfig.mode` names it, and the name of its file.
        keeps_index: document vectors of the base model stay valid.
        needs_dev: it ships only where dev confirms a gain.
        train: trains and evaluates.
        estimate: what it will do and how long it takes.
        starts_from: modes that run before it when it is asked for by name.
        budget_share: of the remaining budget, where another mode follows.
    """

    name: str
    keeps_index: bool
    needs_dev: bool
    train: TrainMode
    estimate: Estimate
    starts_from: tuple[str, ...] = ()
    budget_share: float = 1.0
