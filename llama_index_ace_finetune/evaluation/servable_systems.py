"""ServableSystems: the systems that a retriever can serve, compared on dev and ranked on test."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.evaluation.candidate_legs import CandidateLegs
from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES, Choice, choose, choose_on_few
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.choosing.structures import Embedding, Structure, structures, with_windows
from llama_index_ace_finetune.evaluation.metrics.latency import SystemLatency
from llama_index_ace_finetune.evaluation.system_comparison import SystemComparison
from llama_index_ace_finetune.evaluation.systems import DEPTH, EncodedSet, EvaluationSet, System
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker, settings_within
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.candidate_scores import CandidateScores
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors, merge_further_vectors
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.known_field import FIELD_LEGS, with_known_field
from llama_index_ace_finetune.ranking.lexical_indexes import LEXICAL_LEGS, build_lexical_index
from llama_index_ace_finetune.ranking.postings_index import PostingsIndex
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex, SparseVectors
from llama_index_ace_finetune.utils.text_key import text_key

_MAX_DEV = 2000  # queries to compare on: more take minutes and hundreds of megabytes, and change the choice little
_MAX_CHARACTERS = 200_000_000  # of a corpus: about 50 million tokens, and 2.5 GB of token vectors


@dataclass(frozen=True, eq=False)
class ServableSystems:
    """The legs of every embedding model that can be served.

    Attributes:
        data: all queries, and the corpus.
        lexical: an index of the stored texts per lexical leg, and of the sparse encoder if there is one.
        legs: per embedding model; without "tuned" if training kept the base.
        notes: why a leg was left out.
    """

    data: EvaluationSet
    lexical: Mapping[Leg, PostingsIndex[Any]]
    legs: Mapping[Embedding, CandidateLegs]
    notes: tuple[str, ...] = ()

    @property
    def bm25(self) -> BM25Index:
        """The index of the leg "bm25"."""
        index = self.lexical["bm25"]
        assert isinstance(index, BM25Index)
        return index

    @property
    def token_pooling(self) -> dict[str, int]:
        """Tokens per stored vector of late interaction, by embedding model."""
        return {name: legs.reranker.store.settings.pooling for name, legs in self.legs.items() if legs.reranker}

    @classmethod
    def of(
        cls,
        data: EvaluationSet,
        encoders: Mapping[Embedding, Encoder],
        encoded: Mapping[str, EncodedSet],
        *,
        late_interaction: bool = True,
        sparse: SparseVectors | None = None,
        windows: Mapping[str, FurtherVectors | None] | None = None,
        limits: ServingLimits | None = None,
        kept_tokens: MutableMapping[str, TokenReranker] | None = None,
        progress: Progress | None = None,
    ) -> ServableSystems:
        """Index the corpus for every leg.

        Args:
            data: all queries, and the corpus.
            encoders: "base", and "tuned" if it is another model.
            encoded: their vectors of `data`.
            late_interaction: whether to encode the tokens of the corpus.
            sparse: the sparse encoder of the leg "sparse"; that leg is left out by default.
            windows: vectors of the windows of long texts, by model; a model without any is compared without windows.
            limits: of the system to serve: token vectors are pooled if that keeps them within its bytes per memory.
            kept_tokens: if given, the token vectors of the corpus are added to it, by the fingerprint of their model.
            progress: called with the number of texts whose tokens were encoded.
        """
        lexical: dict[Leg, PostingsIndex[Any]] = {leg: build_lexical_index(leg, data.stored) for leg in LEXICAL_LEGS}
        if sparse is not None:
            lexical["sparse"] = SparseIndex.build(data.stored, sparse)
        notes: list[str] = []
        rerankers: dict[Embedding, TokenReranker] = {}
        size = sum(map(len, data.corpus))
        if late_interaction and size > _MAX_CHARACTERS:
            notes.append(f"Late interaction was left out: {size:,} characters of memories exceed {_MAX_CHARACTERS:,}.")
        elif late_interaction:
            keys = [text_key(text) for text in data.corpus]
            for name, encoder in encoders.items():
                try:
                    settings = _token_settings(encoder, data.corpus, limits, encoded[name])
                    rerankers[name] = TokenReranker.build(
                        encoder, keys, data.corpus, settings=settings, progress=progress
                    )
                except ModelError as error:
                    notes.append(f"Late interaction of the {name} model was left out: {error}")
        if kept_tokens is not None:
            kept_tokens.update({encoders[name].fingerprint: one for name, one in rerankers.items()})
        legs = {
            name: CandidateLegs(
                data=data,
                lexical=lexical,
                dense=encoded[name],
                base=encoded["base"] if name == "tuned" else None,
                reranker=rerankers.get(name),
                windows=(windows or {}).get(name),
            )
            for name in encoders
        }
        return cls(data, lexical, legs, tuple(notes))

    def with_tuned(
        self,
        encoder: Encoder,
        encoded: EncodedSet,
        *,
        windows: FurtherVectors | None = None,
        progress: Progress | None = None,
    ) -> ServableSystems:
        """Return the same systems with other weights of the tuned model, and their vectors of the data."""
        legs = self.legs["tuned"]
        reranker = None
        if legs.reranker is not None:
            keys = [text_key(text) for text in self.data.corpus]
            settings = legs.reranker.store.settings
            reranker = TokenReranker.build(encoder, keys, self.data.corpus, settings=settings, progress=progress)
        changed = replace(legs, dense=encoded, reranker=reranker, windows=windows)
        return replace(self, legs={**self.legs, "tuned": changed})

    def compare(
        self,
        dev: slice,
        *,
        latency: Mapping[str, SystemLatency],
        timed_queries: int = 0,
        limits: ServingLimits | None = None,
        seed: int = 0,
    ) -> SystemComparison:
        """Compare every structure on the dev queries, and select the one to serve.

        Args:
            dev: the dev queries in `data`, one after the other; at most the first 2,000 are used.
            latency: of the embedding models, to add the time of encoding.
            timed_queries: how many queries each leg is timed on.
            limits: of the system to serve.
            seed: of the folds.
        """
        limits = limits or ServingLimits()
        dev = self.compared(dev)
        candidates = [one for name in self.legs for one in self._candidates(name, dev, latency, timed_queries)]
        groups = self.data.groups[dev]
        notes = list(self.notes)

        def chosen(those: Sequence[Candidate]) -> Choice:
            within, note = limits.apply(those)
            notes.extend([note] if note else [])
            if len(groups) < MIN_QUERIES:
                return choose_on_few(within, groups=groups)
            return choose(within, groups=groups, seed=seed)

        untuned = [one for one in candidates if not one.structure.trained]
        fallback = [
            one
            for one in untuned
            if one.structure.embedding == "base" and "late" not in one.structure.legs and not one.structure.windows
        ]
        choice, untuned_choice = chosen(candidates), chosen(untuned)
        return SystemComparison(candidates, choice, untuned_choice, chosen(fallback), tuple(dict.fromkeys(notes)))

    def compared(self, dev: slice) -> slice:
        """Return the dev queries that are compared: at most the first 2,000 of those in `data`."""
        first, last, _ = dev.indices(len(self.data.queries))
        return slice(first, min(last, first + _MAX_DEV))

    def _candidates(
        self, embedding: Embedding, dev: slice, latency: Mapping[str, SystemLatency], timed_queries: int
    ) -> list[Candidate]:
        legs = self.legs[embedding]
        made = structures(legs.available, embeddings=(embedding,))
        if embedding == "tuned":
            made = tuple(one for one in made if one.embedding == "tuned")
        times, stored = legs.milliseconds(timed_queries), legs.bytes_per_memory()
        models: dict[Leg, str] = {"dense": embedding, "base": "base"}
        encode = {leg: one.encode.p50_ms for leg, name in models.items() if (one := latency.get(name)) and one.encode}
        relevant = self.data.relevant[dev]
        more_ms, more_bytes = legs.window_cost(timed_queries)
        tables = self._tables(legs, dev) if relevant else {}
        if legs.windows is not None:
            made += with_windows(made)
        found = []
        for structure in made:
            table = tables.get(structure.windows)
            if table is None:
                candidate = Candidate(structure, np.zeros((len(structure.grid), 0)))
            else:
                candidate = Candidate.of(structure, legs.available, table, relevant, copies=self.data.copies)
            taken = sum(times[leg] + encode.get(leg, 0.0) for leg in structure.legs) if times else None
            size = sum(stored[leg] for leg in structure.legs)
            if structure.windows:
                taken, size = None if taken is None else taken + (more_ms or 0.0), size + more_bytes
            found.append(replace(candidate, milliseconds=taken, bytes_per_memory=size))
        return found

    def _tables(self, legs: CandidateLegs, dev: slice) -> dict[bool, CandidateScores]:
        """Return the scores of all legs, and, if there are windows, those with them."""
        if legs.windows is None:
            return {False: legs.table(legs.available, dev)}
        both = legs.table(legs.available, dev, further=[legs.windows])
        dense = legs.available.index("dense")
        return {used: self.merged(both, dense, 0.0 if used else None) for used in (False, True)}

    def with_field(
        self, legs: CandidateLegs, structure: Structure, texts: Mapping[int, Sequence[str]], weight: int
    ) -> CandidateLegs:
        """Return legs whose BM25, as far as a structure has it, also reads the known queries of each corpus row."""
        if not weight:
            return legs
        rows = range(len(self.data.corpus)) if self.data.copies is None else self.data.copies.rows.tolist()
        stored = [with_known_field(self.data.corpus[row], texts.get(row, ()), weight) for row in rows]
        fields = {leg: build_lexical_index(leg, stored) for leg in FIELD_LEGS if leg in structure.legs}
        return replace(legs, lexical={**legs.lexical, **fields})

    def table(
        self, structure: Structure, legs: CandidateLegs, queries: slice, known: FurtherVectors | None = None
    ) -> CandidateScores:
        """Return the scores of a structure's legs, and of known queries as the last leg if there are any."""
        windows = [legs.windows] if structure.windows and legs.windows is not None else []
        table = legs.table(structure.legs, queries, further=[*([] if known is None else [known]), *windows])
        return self.merged(table, structure.legs.index("dense"), 0.0) if windows else table

    def merged(self, table: CandidateScores, dense: int, offset: float | None) -> CandidateScores:
        """Return the scores with the last leg merged into the dense one."""
        return merge_further_vectors(table, offset, dense=dense, depth=DEPTH, copies=self.data.copies)

    def system(
        self,
        structure: Structure,
        row: int,
        *,
        name: str,
        trained: bool,
        known: FurtherVectors | None = None,
        offset: float | None = None,
        known_texts: Mapping[int, Sequence[str]] | None = None,
        known_weight: int = 0,
    ) -> System:
        """Rank all queries by a structure with the weights of a row of its grid, fused by score.

        Known queries, if there are any, are further vectors of their memories, with an offset, and with a weight above
        0 also a field of BM25: `known_texts` are those of each corpus row.
        """
        legs = self.legs[structure.embedding if structure.embedding in self.legs else "base"]
        legs = self.with_field(legs, structure, known_texts or {}, known_weight)
        table = self.table(structure, legs, slice(None), known)
        if known is not None:
            table = self.merged(table, structure.legs.index("dense"), offset)
        rankings, scores = table.fuse(structure.grid[row], limit=DEPTH)
        settings = structure.settings(row)
        pair = set(structure.legs) == {"dense", "bm25"}
        return System(
            name=name,
            kind="hybrid",
            rankings=rankings,
            scores=scores,
            model="" if structure.embedding == "none" else legs.dense.model,
            fusion="convex",
            weights=(settings.weights["dense"], settings.weights["bm25"]) if pair else None,
            trained=trained,
            settings=settings,
        )


def _token_settings(
    encoder: Encoder, corpus: Sequence[str], limits: ServingLimits | None, encoded: EncodedSet
) -> TokenSettings:
    """Return how token vectors are stored; they are pooled if they and the dense vectors exceed the limit otherwise."""
    if limits is None or limits.bytes_per_memory is None:
        return TokenSettings()
    dense = encoded.corpus.itemsize * encoded.corpus.shape[1]
    return settings_within(limits.bytes_per_memory - dense, encoder, corpus)
