"""SystemComparison: the systems that can be served, compared on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.ranking.fusion_settings import FusionKind


@dataclass(frozen=True, eq=False)
class SystemComparison:
    """The systems that can be served, compared on dev.

    Attributes:
        candidates: all of them.
        choice: the selected one.
        untuned_choice: the selected one of those that do not need the tuned model.
        fallback_choice: the selected one of those that serve if the tuned model fails: the base model, without late
            interaction and windows, whose vectors are those of one model only.
        notes: why a leg or a system was left out.
    """

    candidates: Sequence[Candidate]
    choice: Choice
    untuned_choice: Choice
    fallback_choice: Choice
    notes: tuple[str, ...] = ()

    def with_bm25(self, embedding: str, kind: FusionKind) -> tuple[Candidate, int]:
        """Return the hybrid of a model and BM25, and the row of its selected weights; that of the base if it is kept.

        If a limit excludes it, the weights are neutral.
        """
        found = [
            one
            for one in self.candidates
            if (one.structure.legs, one.structure.kind, one.structure.windows) == (("dense", "bm25"), kind, False)
        ]
        candidate = next((one for one in found if one.structure.embedding == embedding), found[0])
        choice = self.choice if candidate.structure.trained else self.untuned_choice
        return candidate, choice.rows.get(candidate.structure.name, candidate.structure.neutral_row)
