"""SearchSpace: the training settings that are searched, and their ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.training.config import TrainingConfig

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Ranges of the settings of mode "full" that matter most; few, so that few trials suffice.

    Attributes:
        learning_rate: lowest and highest, searched on a log scale.
        temperature: lowest and highest, searched on a log scale.
        batch_size: values to try.
        hard_negatives: values to try.
    """

    learning_rate: tuple[float, float] = (2e-5, 4e-4)
    temperature: tuple[float, float] = (0.02, 0.1)
    batch_size: tuple[int, ...] = (32, 64, 128)
    hard_negatives: tuple[int, ...] = (0, 1, 2, 4)

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an invalid range."""
        for name in ("learning_rate", "temperature"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise AceFinetuneError(f"The range of {name} is {low} to {high}; give two numbers above 0, low first.")
        for name, least in (("batch_size", 1), ("hard_negatives", 0)):
            values = getattr(self, name)
            if not values or min(values) < least:
                raise AceFinetuneError(f"The values of {name} are {values}; give one or more, each {least} or more.")

    def sample(self, trial: Trial, config: TrainingConfig) -> TrainingConfig:
        """Return the settings of a trial."""
        return replace(
            config,
            learning_rate=trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            temperature=trial.suggest_float("temperature", *self.temperature, log=True),
            batch_size=trial.suggest_categorical("batch_size", self.batch_size),
            hard_negatives=trial.suggest_categorical("hard_negatives", self.hard_negatives),
        )

    def point(self, config: TrainingConfig) -> dict[str, Any]:
        """Return the settings of `config` as the values of a trial.

        Raises:
            AceFinetuneError: if one is outside its range, so that the default could not be a candidate.
        """
        values = {name: getattr(config, name) for name in vars(self)}
        for name, value in values.items():
            bounds = getattr(self, name)
            inside = bounds[0] <= value <= bounds[1] if isinstance(value, float) else value in bounds
            if not inside:
                raise AceFinetuneError(f"{name} {value:g} is outside its range {bounds}; widen the range.")
        return values
