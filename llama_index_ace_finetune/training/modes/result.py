"""What a rung of the ladder leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.training.model_selection.interpolation import Selection

Mode = Literal["linear", "queries", "full"]


@dataclass(frozen=True)
class Rung:
    """One way of tuning, done.

    Attributes:
        name: of the rung.
        selection: what it tried on dev and whether that beat the base; None without dev queries.
        dev_mrr: MRR@10 on dev of what it would ship, over the whole corpus.
        steps: optimiser steps.
        epochs: passes over the training queries.
        seconds: the training took, with its looks at dev.
        history: one row per logged step or look at dev.
        build: turns the base model, with the base's weights, into the model that it would ship.
    """

    name: Mode
    selection: Selection | None
    dev_mrr: float
    steps: int
    epochs: float
    seconds: float
    history: Sequence[Mapping[str, float]]
    build: Callable[[SentenceTransformer], SentenceTransformer]

    @property
    def ships(self) -> bool:
        """Whether what it would ship is something else than the base; without dev nobody can say, and it is."""
        return self.selection is None or self.selection.ships_tuned

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        record = self.selection.retention if self.selection else None
        return {
            "rung": self.name,
            "beats_base": self.ships,
            "dev_mrr@10": round(self.dev_mrr, 6),
            "dev_difference_mrr@10": asdict(self.selection.difference) if self.selection else None,
            **({"retention": record.to_dict()} if record else {}),
            "steps": self.steps,
            "epochs": round(self.epochs, 2),
            "seconds": round(self.seconds, 2),
        }


def best_rung(rungs: Sequence[Rung]) -> Rung | None:
    """Return the rung that ships: of those that beat the base the best on dev, of equal ones the lower."""
    ahead = [rung for rung in rungs if rung.ships]
    return max(ahead, key=lambda rung: rung.dev_mrr, default=None)
