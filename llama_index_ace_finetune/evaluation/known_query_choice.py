"""Choose on dev whether the selected system uses known queries: first in the dense leg, then in BM25."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import Choice
from llama_index_ace_finetune.evaluation.choosing.known_queries import (
    OFFSETS,
    WEIGHTS,
    KnownQueryChoice,
    choose_offset,
    choose_weight,
)
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors
from llama_index_ace_finetune.ranking.known_field import FIELD_LEGS


def with_known_queries(
    servable: ServableSystems,
    vectors: Mapping[str, FurtherVectors],
    texts: Mapping[int, Sequence[str]],
    choice: Choice,
    *,
    dev: slice,
    dev_known: slice,
    limits: ServingLimits,
) -> Choice:
    """Return the choice, with whether its system uses known queries at its weights.

    Args:
        servable: the systems that can be served.
        vectors: of the known queries, by model; without those of the choice's own model it is returned as it is.
        texts: of the known queries of each corpus row.
        choice: of the system.
        dev: dev queries in `servable.data`, which ask for memories without known queries; at most the first 2,000 are
            used.
        dev_known: held-out queries about memories with known queries.
        limits: of the system to serve.
    """
    known = vectors.get(choice.candidate.structure.embedding)
    if known is None:
        return choice
    chosen = _choose(servable, known, texts, choice, dev=dev, dev_known=dev_known, limits=limits)
    return replace(choice, known_queries=chosen)


def _choose(
    servable: ServableSystems,
    known: FurtherVectors,
    texts: Mapping[int, Sequence[str]],
    choice: Choice,
    *,
    dev: slice,
    dev_known: slice,
    limits: ServingLimits,
) -> KnownQueryChoice:
    structure = choice.candidate.structure
    if structure.kind != "convex" or "dense" not in structure.legs:
        return KnownQueryChoice(None, "the selected system has no dense leg that is fused by score")
    size = known.vectors.nbytes / max(len(servable.data.stored), 1) + (choice.candidate.bytes_per_memory or 0.0)
    if limits.bytes_per_memory is not None and size > limits.bytes_per_memory:
        return KnownQueryChoice(None, f"with them, {size:.0f} bytes per memory would be stored")
    legs, weights = servable.legs[structure.embedding], structure.grid[choice.row]
    only = replace(structure, grid=(weights,), neutral=weights)

    def values(queries: slice, offsets: Sequence[float | None], weight: int = 0) -> dict[float | None, Any]:
        table = servable.table(structure, servable.with_field(legs, structure, texts, weight), queries, known)
        relevant = servable.data.relevant[queries]
        found: dict[float | None, Any] = {}
        for offset in offsets:
            merged = servable.merged(table, structure.legs.index("dense"), offset)
            candidate = Candidate.of(only, structure.legs, merged, relevant, copies=servable.data.copies)
            found[offset] = candidate.values[0]
        return found

    asked, groups = servable.compared(dev), servable.data.groups[dev_known]
    every = (None, *OFFSETS)
    on_new, on_known = values(asked, every), values(dev_known, every)
    found = choose_offset(on_new, on_known, groups=groups)
    if not set(FIELD_LEGS) & set(structure.legs):
        return found
    chosen = [found.offset]
    by_weight = [
        {
            0: at_no_weight[found.offset],
            **{weight: values(part, chosen, weight)[found.offset] for weight in WEIGHTS},
        }
        for part, at_no_weight in ((asked, on_new), (dev_known, on_known))
    ]
    return replace(found, bm25=choose_weight(*by_weight, groups=groups))
