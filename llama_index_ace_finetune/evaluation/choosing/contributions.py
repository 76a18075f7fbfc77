"""What each part of the chosen system adds on dev."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.evaluation.choosing.structures import LEG_NAMES, WINDOWS, Embedding
from llama_index_ace_finetune.ranking.fusion_settings import Leg


def contributions(candidates: Sequence[Candidate], choice: Choice) -> dict[str, float]:
    """Return by how much the mean MRR@10 on dev is lower without a part.

    The parts are "tuning", "windows", and each leg beside the dense one.

    The system without the part has its own selected weights. A part is missing if the system without it was not
    compared.
    """
    structure, chosen = choice.candidate.structure, float(choice.values.mean())
    found = {}

    def compare(name: str, embedding: Embedding, legs: tuple[Leg, ...], *, windows: bool = structure.windows) -> None:
        wanted = embedding, legs, windows
        compared = [(one, one.structure) for one in candidates]
        same = [one for one, its in compared if (its.embedding, its.legs, its.windows) == wanted]
        other = max(
            (choice.means[one.structure.name] for one in same if one.structure.name in choice.means), default=None
        )
        if other is not None:
            found[name] = round(chosen - other, 6)

    if structure.trained:
        compare("tuning", "base", tuple(leg for leg in structure.legs if leg != "base"))
    if structure.windows:
        compare(WINDOWS, structure.embedding, structure.legs, windows=False)
    for leg in structure.legs:
        if leg != "dense" and len(structure.legs) > 1:
            compare(LEG_NAMES[leg], structure.embedding, tuple(one for one in structure.legs if one != leg))
    return found
