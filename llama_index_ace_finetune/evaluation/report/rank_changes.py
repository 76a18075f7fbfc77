"""Rank changes between two systems: counts, and the queries that gained and lost most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.result import MEASURE, Evaluation

EXAMPLES = 10
NOT_FOUND = 0
_BUCKETS = ((1, 1, "1"), (2, 3, "2-3"), (4, 10, "4-10"), (11, 100, "11-100"))
_MISSED = "not found"


def first_relevant_ranks(rankings: NDArray[np.int32], relevant: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
    """Return the rank of each query's first relevant document, from 1, int64 [n]; `NOT_FOUND` if there is none."""
    ranks = np.zeros(len(rankings), np.int64)
    for number, (ranking, rows) in enumerate(zip(rankings, relevant, strict=True)):
        places = np.flatnonzero(np.isin(ranking, rows))
        if len(places):
            ranks[number] = places[0] + 1
    return ranks


def rank_change_matrix(before: NDArray[np.int64], after: NDArray[np.int64]) -> dict[str, Any]:
    """Return the number of queries by rank bucket before (i) and after (j) as `counts[i][j]`."""
    labels = [label for _, _, label in _BUCKETS] + [_MISSED]
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (_bucket(before), _bucket(after)), 1)
    return {"buckets": labels, "counts": counts.tolist()}


def _bucket(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    buckets = np.full(len(ranks), len(_BUCKETS), np.int64)
    for number, (low, high, _) in enumerate(_BUCKETS):
        buckets[(ranks >= low) & (ranks <= high)] = number
    return buckets


def largest_changes(
    evaluation: Evaluation, *, before: str, after: str, examples: int = EXAMPLES
) -> dict[str, list[dict[str, Any]]]:
    """Return the queries that gained and lost most in MRR@10, with their texts, ranks and first hits."""
    data = evaluation.data
    old, new = evaluation.system(before), evaluation.system(after)
    old_ranks, new_ranks = (first_relevant_ranks(one.rankings, data.relevant) for one in (old, new))
    gain = evaluation.values[after][MEASURE] - evaluation.values[before][MEASURE]
    order = np.argsort(-gain, kind="stable")
    gains = [int(row) for row in order[:examples] if gain[row] > 0]
    losses = [int(row) for row in order[::-1][:examples] if gain[row] < 0]

    def rows(chosen: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "query_id": data.query_ids[row],
                "query": data.queries[row],
                "answer": data.corpus[int(data.relevant[row][0])],
                "base_rank": int(old_ranks[row]) or None,
                "new_rank": int(new_ranks[row]) or None,
                "first_hit": _text(data.corpus, new.rankings[row]),
            }
            for row in chosen
        ]

    return {"gains": rows(gains), "losses": rows(losses)}


def _text(corpus: tuple[str, ...], ranking: NDArray[np.int32]) -> str | None:
    first = int(ranking[0]) if len(ranking) else -1
    return corpus[first] if 0 <= first < len(corpus) else None
