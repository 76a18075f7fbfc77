"""The result of one training mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index_ace_finetune.training.data.remined_negatives import Remining
from llama_index_ace_finetune.training.model_selection.interpolation import Selection


@dataclass(frozen=True)
class ModeResult:
    """What a training mode found.

    Attributes:
        name: of the mode.
        selection: the candidates on dev and whether one beat the base; None without dev queries.
        dev_mrr: MRR@10 on dev of its best candidate, over the whole corpus, also if that is not better than the base.
        steps: optimiser steps.
        epochs: passes over the training queries.
        seconds: of training and dev evaluations.
        history: one row per logged step or dev evaluation.
        build: turns the base model, with the base's weights, into the model that it would ship.
        weights: of the model that it would ship for queries and documents; None if it has not trained such weights.
        query_adapter: the matrix that a later mode starts from, float32 [d, d]; None for none.
        token_projection: of the token states that late interaction uses, float32 [width, d]; None for none.
        preferred: it ships even if another mode is better by single vectors, but not by more than one standard error,
            since its token vectors re-rank better.
        remined: when its negatives were mined again.
        scheduled: at which step its learning rate was, or would have been, zero; None if it has no such schedule.
    """

    name: str
    selection: Selection | None
    dev_mrr: float
    steps: int
    epochs: float
    seconds: float
    history: Sequence[Mapping[str, float]]
    build: Callable[[SentenceTransformer], SentenceTransformer]
    weights: Mapping[str, Tensor] | None = None
    query_adapter: NDArray[np.float32] | None = None
    token_projection: NDArray[np.float32] | None = None
    preferred: bool = False
    remined: Sequence[Remining] = ()
    scheduled: int | None = None

    @property
    def ships(self) -> bool:
        """Whether it would ship something other than the base; without dev queries it does, not validated."""
        return self.selection is None or self.selection.ships_tuned

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        record = self.selection.retention if self.selection else None
        late = self.selection.late_interaction if self.selection else None
        return {
            "rung": self.name,
            "beats_base": self.ships,
            "dev_mrr@10": round(self.dev_mrr, 6),
            "dev_difference_mrr@10": asdict(self.selection.difference) if self.selection else None,
            **({"retention": record.to_dict()} if record else {}),
            **({"late_interaction": late.to_dict()} if late else {}),
            **({"remined": [asdict(one) for one in self.remined]} if self.remined else {}),
            "steps": self.steps,
            "epochs": round(self.epochs, 2),
            "seconds": round(self.seconds, 2),
        }


def best_result(results: Sequence[ModeResult]) -> ModeResult | None:
    """Return the result that ships: a preferred one, or the best on dev, of those that beat the base.

    Of equal ones it is the cheaper.
    """
    ahead = [result for result in results if result.ships]
    return max(ahead, key=lambda result: (result.preferred, result.dev_mrr), default=None)
