"""From candidates to hard negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining.candidates import Candidates, Ragged, gather_candidates
from llama_index_ace_finetune.mining.filtering import Rescore, Verdicts, judge_candidates
from llama_index_ace_finetune.mining.results import MinedNegatives, RelaxedStep
from llama_index_ace_finetune.mining.sampling import Chosen, query_seeds, select
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
    judged_wrong: Sequence[NDArray[np.int64]] | None = None,
    excluded: NDArray[np.bool_] | None = None,
    rescore: Rescore | None = None,
    keys: Sequence[str] | None = None,
) -> MinedNegatives:
    """Choose up to `count` negatives per query from what the sources rank high.

    A candidate is refused by the first of `filters.FILTERS` that applies. One that somebody judged wrong is taken
    before all others, and only a right or a held-out answer is refused then: a judgement beats a guess. A query keeps
    fewer than `count` when its candidates run out, unless the relaxation fills it up; what that adds comes last. A
    right answer, a held-out one or a near-duplicate never comes back, and nothing is padded.

    Args:
        query_vectors: unit rows [n, d].
        corpus_vectors: unit rows [m, d].
        relevant: corpus rows that are right for each query.
        sources: rankings to draw from.
        count: negatives wanted per query.
        settings: filters, relaxation and selection; `dense`, `bm25` and `teacher` are the caller's to follow.
        judged_wrong: corpus rows that somebody judged wrong for each query.
        excluded: bool [m], rows that must not be used for anybody (right answers of held-out queries).
        rescore: a teacher; the margins and the maximum score then go by its scores. It is asked for the right answers
            and for the candidates that the filters before those let through.
        keys: what random draws of each query are seeded by, besides the seed; its number by default.

    Raises:
        ModelError: if vectors or the teacher's scores hold NaN or infinity.
    """
    _require_finite(query_vectors, "query")
    _require_finite(corpus_vectors, "corpus")
    n = len(query_vectors)
    wrong = judged_wrong if judged_wrong is not None else [np.empty(0, np.int64)] * n
    candidates = gather_candidates(sources, n, settings.range_max, judged_wrong=Ragged.of(wrong))
    verdicts = judge_candidates(
        candidates,
        query_vectors=query_vectors,
        corpus_vectors=corpus_vectors,
        right=Ragged.of(relevant),
        excluded=excluded,
        rescore=rescore,
        settings=settings,
    )
    seeds = query_seeds(keys if keys is not None else [str(query) for query in range(n)], settings.seed)
    chosen = select(candidates, verdicts.passing, count, sampling_strategy=settings.sampling_strategy, seeds=seeds)
    relaxed = _relax(candidates, verdicts, chosen, settings, seeds)
    return MinedNegatives.of(candidates, verdicts, chosen, relaxed)


def _relax(
    candidates: Candidates,
    verdicts: Verdicts,
    chosen: Chosen,
    settings: MiningSettings,
    seeds: NDArray[np.uint64],
) -> tuple[RelaxedStep, ...]:
    """Loosen the relative margin step by step where a query is short, and fill up `chosen` in place."""
    columns, taken_from = chosen
    count = columns.shape[1]
    steps = []
    for margin in settings.relaxation:
        have = (columns >= 0).sum(axis=1)
        short = np.flatnonzero(have < count)
        # A short query has taken all that passed before, so only what this step lets through is new.
        opened = verdicts.loosen(short, margin)
        more, sources = select(
            candidates.of_queries(short),
            opened,
            count,
            sampling_strategy=settings.sampling_strategy,
            seeds=seeds[short],
        )
        place = have[short][:, None] + np.arange(count)
        added = (more >= 0) & (place < count)
        target = np.repeat(short, added.sum(axis=1)), place[added]
        columns[target], taken_from[target] = more[added], sources[added]
        steps.append(RelaxedStep(relative_margin=margin, queries=len(short), negatives=int(added.sum())))
    return tuple(steps)


def _require_finite(vectors: NDArray[np.float32], what: str) -> None:
    # NaN and infinity survive a sum, which needs no second matrix.
    broken = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    if len(broken):
        raise ModelError(
            f"The {what} vectors hold NaN or infinity (row {broken[0]}); the model is broken, give another one."
        )
