"""The options of a retriever, typed, and validated before anything is loaded, embedded or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypedDict, cast

from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import IndexNode

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.bm25 import BM25Settings
from llama_index_ace_finetune.ranking.fusion_settings import FusionKind, Leg
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH
from llama_index_ace_finetune.retrievers.fallback import Fallback, FallbackSettings, Serve, require_serve
from llama_index_ace_finetune.retrievers.hybrid_search import Sparse, require_sparse
from llama_index_ace_finetune.retrievers.search_event import SearchLog
from llama_index_ace_finetune.retrievers.search_settings import Mode, SearchSettings
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.qdrant.filters import Filters


class SearchOptions(TypedDict, total=False):
    """Options that can be changed per call.

    Attributes:
        similarity_top_k: number of results; 10 by default.
        dense_top_k: hits taken from a leg with vectors; in mode "hybrid" 100 by default, as when the weights were
            chosen.
        sparse_top_k: hits taken from a lexical leg (BM25, character n-grams); in mode "hybrid" 100 by default.
        rrf_k: constant of RRF; 60 by default.
        fusion: "rrf" (the default) fuses ranks, "convex" the normalised scores; for the model folder of a run, the
            method that was chosen on dev.
        weights: of the dense and the BM25 leg, equal by default; for the model folder of a run, the weights that were
            chosen on dev.
        leg_weights: the weight of each leg, by name, instead of `weights`: "dense", "base" (the base model's vectors
            beside the tuned ones), "bm25", "bm25_unstemmed", "char_ngrams", "sparse" (a sparse encoder) and, with
            fusion "convex", "late" (late interaction). Legs that are not named are not used.
        baseline_fusion: the fusion if the baseline serves; None takes `fusion`.
        baseline_weights: the weights if the baseline serves; None takes `weights`.
        baseline_leg_weights: the weights of the legs if the baseline serves, instead of `baseline_weights`.
        known_query_offset: what is taken off the cosine with a known query, if known queries are further vectors of
            their memories in the dense leg; None leaves them out. By default as a run chose on dev.
        known_query_weight: how often BM25 counts each term of a known query as one of its memory, a whole number; 0
            leaves known queries out. By default as a run chose on dev. Not with `sparse="server"`.
        windows: whether windows of the texts that exceed the token limit of the model are further vectors of their
            memories in the dense leg. By default as a run chose on dev; False without a run.
        threshold: minimum cosine of a dense hit, applied to the dense leg before fusion; none by default. A memory
            below it that another leg finds stays.
        mode: "hybrid" (the default), "dense" or "sparse".
        filters: metadata filters, applied by Qdrant's rules to all legs.
        node_ids: only these nodes.
        doc_ids: only nodes of these source documents.
    """

    similarity_top_k: int
    dense_top_k: int | None
    sparse_top_k: int | None
    rrf_k: int
    fusion: FusionKind
    weights: tuple[float, float]
    leg_weights: Mapping[Leg, float] | None
    baseline_fusion: FusionKind | None
    baseline_weights: tuple[float, float] | None
    baseline_leg_weights: Mapping[Leg, float] | None
    known_query_offset: float | None
    known_query_weight: int
    windows: bool
    threshold: float | None
    mode: Mode
    filters: Filters | None
    node_ids: Sequence[str] | None
    doc_ids: Sequence[str] | None


class RetrieverOptions(SearchOptions, total=False):
    """Options of `FineTunedHybridRetriever` and of its constructors, including those of `SearchOptions`.

    Attributes:
        sparse: where BM25 is computed: "in_process" (the default), or "server" for a store with BM25 vectors.
        bm25: parameters of the in-process BM25.
        fallback: "baseline" (the default) or "off".
        timeout: seconds for a query: embedding, all legs, and fetching the results; none by default. If a model takes
            more than half of the remaining time, the next one is tried; a server that does not answer in time is a
            StoreError.
        breaker_failures: failures in a row, 3 by default, after which a model is skipped for a cool-down.
        breaker_pause: seconds of the cool-down, 30 by default.
        serve: "finetuned" (the default), or "base" to search the "baseline" vectors because the base model was chosen;
            that is not a fallback, and results say "base". `from_run` sets it by the run's verdict.
        query_log: a `QueryLog` that records each search and takes feedback; none by default.
        callback_manager: of LlamaIndex.
        object_map: objects of `IndexNode`s by their `index_id`; found retrievers and query engines are queried.
        objects: `IndexNode`s that hold their object, instead of `object_map`.
        verbose: of LlamaIndex.
    """

    sparse: Sparse
    bm25: BM25Settings | None
    fallback: Fallback
    timeout: float | None
    breaker_failures: int
    breaker_pause: float
    serve: Serve
    query_log: SearchLog | None
    callback_manager: CallbackManager | None
    object_map: dict[str, Any] | None
    objects: list[IndexNode] | None
    verbose: bool


_SEARCH_OPTIONS = SearchOptions.__optional_keys__
_RETRIEVER_OPTIONS = RetrieverOptions.__optional_keys__
_FALLBACK = {"fallback": "fallback", "timeout": "timeout", "breaker_failures": "failures", "breaker_pause": "cooldown"}


@dataclass(frozen=True)
class CheckedOptions:
    """Validated options, grouped by the components that take them."""

    search: SearchSettings
    fallback: FallbackSettings
    sparse: Sparse = "in_process"
    bm25: BM25Settings | None = None
    serve: Serve = "finetuned"
    query_log: SearchLog | None = None
    callback_manager: CallbackManager | None = None
    object_map: dict[str, Any] | None = None
    objects: list[IndexNode] | None = None
    verbose: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CheckedOptions:
        """Validate `RetrieverOptions`.

        Raises:
            AceFinetuneError: for an unknown option, with the most similar name, or a value of a wrong type or out of
                range.
        """
        _require_known(options, _RETRIEVER_OPTIONS, "retriever")
        sparse, bm25 = options.get("sparse", "in_process"), options.get("bm25")
        require_sparse(sparse)
        if not isinstance(bm25, BM25Settings | None):
            raise AceFinetuneError(f"The retriever option bm25 is {bm25!r:.80}; it must be BM25Settings or None.")
        serve = options.get("serve", "finetuned")
        require_serve(serve)
        try:
            fallback = FallbackSettings(**{ours: options[name] for name, ours in _FALLBACK.items() if name in options})
        except TypeError as error:
            raise AceFinetuneError(f"A retriever option has a wrong type ({error}); see RetrieverOptions.") from error
        return cls(
            search=search_settings({name: options[name] for name in options if name in _SEARCH_OPTIONS}),
            fallback=fallback,
            sparse=sparse,
            bm25=bm25,
            serve=serve,
            query_log=_search_log(options.get("query_log")),
            callback_manager=options.get("callback_manager"),
            object_map=options.get("object_map"),
            objects=options.get("objects"),
            verbose=options.get("verbose", False),
        )


def search_settings(options: Mapping[str, Any], base: SearchSettings | None = None) -> SearchSettings:
    """Return the settings `base` (the defaults if None) with the given `SearchOptions`.

    Raises:
        AceFinetuneError: as in `CheckedOptions.of`.
    """
    _require_known(options, _SEARCH_OPTIONS, "search")
    given = {("top_k" if name == "similarity_top_k" else name): value for name, value in options.items()}
    base = base or SearchSettings()
    try:
        return replace(base, **{**_replaced(given, base), **given})
    except TypeError as error:
        raise AceFinetuneError(f"A search option has a wrong type ({error}); see SearchOptions.") from error


def _search_log(log: Any) -> SearchLog | None:
    if log is not None and not callable(getattr(log, "new_query_id", None)):
        raise AceFinetuneError(f"The retriever option query_log is {log!r:.80}; give QueryLog.open(path).")
    return cast("SearchLog | None", log)


def serving_options(serving: Serving) -> SearchOptions:
    """Return the legs, weights and fusion that a run chose."""
    options: SearchOptions = {"weights": serving.weights, "baseline_weights": serving.baseline_weights}
    if serving.known_query_offset is not None:
        options["known_query_offset"] = serving.known_query_offset
    if serving.known_query_weight:
        options["known_query_weight"] = serving.known_query_weight
    if serving.windows:
        options["windows"] = True
    fusion, baseline = serving.fusion, serving.baseline_fusion
    if fusion is not None:
        options |= {"fusion": fusion.kind, "leg_weights": fusion.weights}
        if fusion.depth != FUSION_DEPTH:
            options |= {"dense_top_k": fusion.depth, "sparse_top_k": fusion.depth}
    if baseline is not None:
        options |= {"baseline_fusion": baseline.kind, "baseline_leg_weights": baseline.weights}
    elif fusion is not None and serving.baseline_weights is not None:
        options["baseline_fusion"] = "rrf"
    return options


def _replaced(given: Mapping[str, Any], base: SearchSettings) -> dict[str, Any]:
    """Return the earlier weights that the given ones replace: a pair replaces a mapping, whose fusion goes with it."""
    replaced: dict[str, Any] = {}
    for prefix, by_leg in (("", base.leg_weights), ("baseline_", base.baseline_leg_weights)):
        if by_leg is None:
            continue
        if f"{prefix}weights" in given:
            replaced |= {f"{prefix}leg_weights": None, f"{prefix}fusion": "rrf"}
        elif f"{prefix}fusion" in given and given[f"{prefix}fusion"] != getattr(base, f"{prefix}fusion"):
            replaced[f"{prefix}leg_weights"] = None
    return replaced


def _require_known(options: Mapping[str, Any], names: frozenset[str], what: str) -> None:
    known = sorted(names)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
            raise AceFinetuneError(f"A {what} has no option {name!r:.80}; {remedy}")
