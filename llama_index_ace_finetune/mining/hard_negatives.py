"""Hard-negative mining: retrieves candidates, filters them and samples negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining.apply_filters import FilterResult, Rescore, apply_filters
from llama_index_ace_finetune.mining.candidates import Candidates, Ragged, gather_candidates
from llama_index_ace_finetune.mining.results import MarginBackoffStep, MinedNegatives
from llama_index_ace_finetune.mining.sampling import Selection, query_seeds, select
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import CandidateSource


def mine_negatives(
    *,
    query_vectors: NDArray[np.float32],
    corpus_vectors: NDArray[np.float32],
    relevant: Sequence[NDArray[np.int64]],
    sources: Sequence[CandidateSource],
    count: int,
    settings: MiningSettings,
    judged_negatives: Sequence[NDArray[np.int64]] | None = None,
    excluded: NDArray[np.bool_] | None = None,
    rescore: Rescore | None = None,
    keys: Sequence[str] | None = None,
) -> MinedNegatives:
    """Mine up to `count` hard negatives per query from the top-ranked rows of the sources.

    A candidate is rejected by the first of `filters.FILTERS` that applies. Negatives labelled in the data come first;
    they are rejected only if they are also known positives or held-out positives. A query with too few candidates gets
    fewer than `count` negatives, unless the margin back-off fills it up; negatives from the back-off come last. Known
    positives, held-out positives and near-duplicates are never re-admitted, and the result is not padded.

    Args:
        query_vectors: unit rows [n, d].
        corpus_vectors: unit rows [m, d].
        relevant: corpus rows of the positives of each query.
        sources: rankings to take candidates from.
        count: negatives per query.
        settings: filters, margin back-off and sampling; `dense`, `bm25` and `teacher` are left to the caller.
        judged_negatives: corpus rows that the data labels as negatives of each query.
        excluded: bool [m], rows that must not become negatives of any query (positives of held-out queries).
        rescore: a teacher, whose scores the margins and the maximum score then use. It scores the positives and the
            candidates that the earlier filters accept.
        keys: seed the random draws of each query, together with `settings.seed`; query numbers by default.

    Raises:
        ModelError: if vectors or teacher scores hold NaN or infinity.
    """
    _require_finite(query_vectors, "query")
    _require_finite(corpus_vectors, "corpus")
    n = len(query_vectors)
    judged = judged_negatives if judged_negatives is not None else [np.empty(0, np.int64)] * n
    candidates = gather_candidates(sources, n, settings.range_max, judged_negatives=Ragged.of(judged))
    filter_result = apply_filters(
        candidates,
        query_vectors=query_vectors,
        corpus_vectors=corpus_vectors,
        relevant=Ragged.of(relevant),
        excluded=excluded,
        rescore=rescore,
        settings=settings,
    )
    seeds = query_seeds(keys if keys is not None else [str(query) for query in range(n)], settings.seed)
    selected = select(
        candidates, filter_result.accepted, count, sampling_strategy=settings.sampling_strategy, seeds=seeds
    )
    backoff_steps = _back_off_margin(candidates, filter_result, selected, settings, seeds)
    return MinedNegatives.of(candidates, filter_result, selected, backoff_steps)


def _back_off_margin(
    candidates: Candidates,
    filter_result: FilterResult,
    selected: Selection,
    settings: MiningSettings,
    seeds: NDArray[np.uint64],
) -> tuple[MarginBackoffStep, ...]:
    """Lower the relative margin step by step for queries with too few negatives; extends `selected` in place."""
    columns, source_index = selected
    count = columns.shape[1]
    steps = []
    for margin in settings.relaxation:
        have = (columns >= 0).sum(axis=1)
        short = np.flatnonzero(have < count)
        # A short query has selected all candidates accepted before, so only re-admitted ones are new.
        readmitted = filter_result.readmit(short, margin)
        more, sources = select(
            candidates.of_queries(short),
            readmitted,
            count,
            sampling_strategy=settings.sampling_strategy,
            seeds=seeds[short],
        )
        place = have[short][:, None] + np.arange(count)
        added = (more >= 0) & (place < count)
        target = np.repeat(short, added.sum(axis=1)), place[added]
        columns[target], source_index[target] = more[added], sources[added]
        steps.append(MarginBackoffStep(relative_margin=margin, queries=len(short), negatives=int(added.sum())))
    return tuple(steps)


def _require_finite(vectors: NDArray[np.float32], kind: str) -> None:
    # NaN and infinity survive a sum, which needs no second matrix.
    broken = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    if len(broken):
        raise ModelError(
            f"The {kind} vectors hold NaN or infinity (row {broken[0]}); the model is broken, give another one."
        )
