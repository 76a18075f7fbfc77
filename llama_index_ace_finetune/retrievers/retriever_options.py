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
from llama_index_ace_finetune.retrievers.fallback import Fallback, FallbackSettings, Serve, require_serve
from llama_index_ace_finetune.retrievers.hybrid_search import Sparse, require_sparse
from llama_index_ace_finetune.retrievers.search_event import SearchLog
from llama_index_ace_finetune.retrievers.search_settings import Mode, SearchSettings
from llama_index_ace_finetune.stores.qdrant.filters import Filters


class SearchOptions(TypedDict, total=False):
    """Options that can be changed per call.

    Attributes:
        similarity_top_k: number of results; 10 by default.
        dense_top_k: hits taken from the dense leg; in mode "hybrid" 100 by default, as when the weights were chosen.
        sparse_top_k: hits taken from BM25; in mode "hybrid" 100 by default.
        rrf_k: constant of RRF; 60 by default.
        weights: of the dense and the BM25 leg, equal by default; for the model folder of a run, the weights that were
            chosen on dev.
        baseline_weights: the weights if the baseline serves; None takes `weights`.
        threshold: minimum cosine of a dense hit, applied to the dense leg before fusion; none by default.
        mode: "hybrid" (the default), "dense" or "sparse".
        filters: metadata filters, applied by Qdrant's rules to both legs.
        node_ids: only these nodes.
        doc_ids: only nodes of these source documents.
    """

    similarity_top_k: int
    dense_top_k: int | None
    sparse_top_k: int | None
    rrf_k: int
    weights: tuple[float, float]
    baseline_weights: tuple[float, float] | None
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
        timeout: seconds for a query: embedding, both legs, and fetching the results; none by default. If a model takes
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
    try:
        return replace(base or SearchSettings(), **given)
    except TypeError as error:
        raise AceFinetuneError(f"A search option has a wrong type ({error}); see SearchOptions.") from error


def _search_log(log: Any) -> SearchLog | None:
    if log is not None and not callable(getattr(log, "new_query_id", None)):
        raise AceFinetuneError(f"The retriever option query_log is {log!r:.80}; give QueryLog.open(path).")
    return cast("SearchLog | None", log)


def _require_known(options: Mapping[str, Any], names: frozenset[str], what: str) -> None:
    known = sorted(names)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
            raise AceFinetuneError(f"A {what} has no option {name!r:.80}; {remedy}")
