"""Some queries with their negatives, to be read by somebody before training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.mined import MinedNegative, MinedNegatives

SAMPLES = 20
_LETTERS = 200


def mining_samples(
    mined: MinedNegatives,
    *,
    queries: Sequence[str],
    corpus: Sequence[str],
    relevant: Sequence[NDArray[np.int64]],
    seed: int,
    count: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Draw `count` queries and return each with a right answer and its negatives; texts are cut to 200 characters.

    Args:
        mined: negatives of the queries.
        queries: their texts.
        corpus: texts of the corpus rows.
        relevant: right rows of each query; the first is shown.
        seed: of the draw.
        count: fewer come back where there are fewer queries.
    """
    chosen = sorted(random.Random(seed).sample(range(len(queries)), min(count, len(queries))))
    return [
        {
            "query": queries[query][:_LETTERS],
            "right": corpus[int(relevant[query][0])][:_LETTERS] if len(relevant[query]) else None,
            "right_answers": len(relevant[query]),
            "negatives": [_shown(negative, corpus) for negative in mined.negatives_of(query)],
        }
        for query in chosen
    ]


def _shown(negative: MinedNegative, corpus: Sequence[str]) -> dict[str, Any]:
    return {
        "text": corpus[negative.row][:_LETTERS],
        "source": negative.source,
        "rank": negative.rank,
        "score": _rounded(negative.score),
        "similarity": _rounded(negative.similarity),
        "found_by": {hit.source: {"rank": hit.rank, "score": _rounded(hit.score)} for hit in negative.hits},
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)
