"""ModelSystems: BM25, dense search and hybrids of our models, ranked with one version of the tuned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.evaluation.choosing.structures import Embedding
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.fusion_weights import fusion_choice
from llama_index_ace_finetune.evaluation.result import (
    BASE,
    HYBRID_BASE,
    HYBRID_BASE_CONVEX,
    HYBRID_BASE_WEIGHTED,
    HYBRID_CONVEX,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    TUNED,
)
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.system_comparison import SystemComparison
from llama_index_ace_finetune.evaluation.systems import EncodedSet, System, dense_system, hybrid_system
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors


@dataclass(frozen=True, eq=False)
class ModelSystems:
    """Our models with one version of the tuned weights, and what it takes to rank by them.

    Attributes:
        servable: the systems that can be served.
        models: that can be served: "base", and "tuned" if it is another model.
        encoded: vectors of these and of further models.
        known: vectors of known queries, by model.
        known_texts: of the known queries of each corpus row.
    """

    servable: ServableSystems
    models: Mapping[Embedding, Encoder]
    encoded: Mapping[str, EncodedSet]
    known: Mapping[str, FurtherVectors] = field(default_factory=dict)
    known_texts: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def with_tuned(
        self, encoder: Encoder, *, windows: bool, cache: Path | None, progress: Progress | None
    ) -> ModelSystems:
        """Return them with other weights of the tuned model."""
        data = self.servable.data
        encoded = EncodedSet.of(data, encoder, cache=cache, progress=progress)
        further = None
        if windows:
            further = CorpusWindows.of(encoder, data.corpus).encode(cache=cache, progress=progress)
        return ModelSystems(
            self.servable.with_tuned(encoder, encoded, windows=further, progress=progress),
            {**self.models, "tuned": encoder},
            {**self.encoded, TUNED: encoded},
        )

    def with_known_queries(self, known: KnownQueries, *, cache: Path | None, progress: Progress | None) -> ModelSystems:
        """Return them with known queries, encoded by each model, and placed at the corpus rows of their memories."""
        row_of = {identifier: row for row, identifier in enumerate(self.servable.data.corpus_ids)}
        pairs = [(place, row_of[answer]) for place, answers in enumerate(known.answers) for answer in answers]
        places, rows = np.array(pairs, np.int64).T
        vectors: dict[str, FurtherVectors] = {}
        for name, model in self.models.items():
            encoded = model.in_float32().encode(known.texts, role="query", cache=cache, progress=progress)
            vectors[name] = FurtherVectors.of(encoded[places], rows)
        texts: dict[int, list[str]] = {}
        for place, row in pairs:
            texts.setdefault(row, []).append(known.texts[place])
        return replace(self, known=vectors, known_texts=texts)

    def systems(
        self,
        found: SystemComparison,
        lexical: System,
        *,
        also: Sequence[str],
    ) -> list[System]:
        """Return BM25, per model dense only and its hybrids with BM25, the selected systems, and further models."""
        servable, systems, copies = self.servable, [lexical], self.servable.data.copies
        dense = {
            name: dense_system(servable.data, vectors, name=name, trained=name == TUNED)
            for name, vectors in self.encoded.items()
        }
        named = (
            (BASE, HYBRID_BASE, HYBRID_BASE_WEIGHTED, HYBRID_BASE_CONVEX, found.untuned_choice),
            (TUNED, HYBRID_EQUAL, HYBRID_TUNED, HYBRID_CONVEX, found.choice),
        )
        for name, equal, weighted, by_score, choice in named:
            weights = fusion_choice(*found.with_bm25(name, "rrf")).weights
            convex, row = found.with_bm25(name, "convex")
            systems += [
                dense[name],
                hybrid_system(dense[name], lexical, name=equal, copies=copies),
                hybrid_system(dense[name], lexical, name=weighted, weights=weights, copies=copies),
                servable.system(convex.structure, row, name=by_score, trained=name == TUNED),
            ]
            structure = choice.candidate.structure
            selected = structure.system_name(choice.row)
            if selected not in {system.name for system in systems}:
                systems.append(servable.system(structure, choice.row, name=selected, trained=structure.trained))
            if choice.uses_known_queries and choice.system_name not in {system.name for system in systems}:
                systems.append(
                    servable.system(
                        structure,
                        choice.row,
                        name=choice.system_name,
                        trained=structure.trained,
                        known=self.known[structure.embedding],
                        offset=choice.offset,
                        known_texts=self.known_texts,
                        known_weight=choice.field_weight,
                    )
                )
        return systems + [dense[name] for name in also]
