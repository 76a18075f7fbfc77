"""Upper bound of the measures if one query text has different relevant memories in different rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llama_index_ace_finetune.datasets.types import RetrievalDataset


@dataclass(frozen=True)
class UpperBound:
    """Means over rows, each of which counts only its own judgements."""

    recall_at_1: float
    recall_at_5: float
    mrr: float


def upper_bound(dataset: RetrievalDataset) -> UpperBound:
    """Return the best values over the raw rows that a ranker can reach which sees only the query text.

    Rows with an equal text get the same ranking. For each text, answers are ranked by the number of rows for which
    they are relevant and which have no relevant answer yet (exact if every row has one relevant answer, else the usual
    greedy cover), ties by id; a row's rank is that of its first relevant answer. Without relevant answers all are 0.
    """
    rows: dict[str, list[frozenset[str]]] = {}
    for query_id, group in dataset.query_groups.items():
        grades = dataset.judgements.get(query_id, {})
        relevant = frozenset(dataset.answer_ids[m] for m, grade in grades.items() if grade > 0)
        if relevant:
            rows.setdefault(group, []).append(relevant)
    ranks = [rank for relevant_sets in rows.values() for rank in _best_ranks(relevant_sets)]
    if not ranks:
        return UpperBound(0.0, 0.0, 0.0)
    n = len(ranks)
    return UpperBound(sum(r == 1 for r in ranks) / n, sum(r <= 5 for r in ranks) / n, sum(1 / r for r in ranks) / n)


def _best_ranks(relevant_sets: list[frozenset[str]]) -> list[int]:
    ranks: list[int] = []
    waiting = relevant_sets
    rank = 0
    while waiting:
        rank += 1
        votes = Counter(answer for relevant in waiting for answer in relevant)
        best = min(votes, key=lambda answer: (-votes[answer], answer))
        ranks.extend(rank for relevant in waiting if best in relevant)
        waiting = [relevant for relevant in waiting if best not in relevant]
    return ranks
