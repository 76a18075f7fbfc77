"""Variation of a result across training seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llama_index_ace_finetune.errors import AceFinetuneError


@dataclass(frozen=True, slots=True)
class SeedVariance:
    """Mean and standard deviation (n - 1; None with one seed) of a value across training seeds."""

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: ArrayLike) -> SeedVariance:
        """Return the statistics of one value per seed, float [seeds], or of per-query values, float [seeds, n].

        Raises:
            AceFinetuneError: if there is no seed or no query, or a value is not finite.
        """
        figures = np.asarray(values, np.float64)
        if not figures.size or not np.isfinite(figures).all():
            raise AceFinetuneError("A value of a seed is missing, NaN or infinite; give one finite value per seed.")
        means = figures.reshape(len(figures), -1).mean(axis=1)
        deviation = float(means.std(ddof=1)) if len(means) > 1 else None
        return cls(mean=float(means.mean()), deviation=deviation, seeds=len(means))

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.3f} (1 seed)"
        return f"{self.mean:.3f} +- {self.deviation:.3f} ({self.seeds} seeds)"
