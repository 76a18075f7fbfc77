"""What the best ranking could reach where one query text has different right answers in different rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llama_index_ace_finetune.datasets.types import RetrievalDataset


@dataclass(frozen=True)
class Ceiling:
    """Means over rows, each counting only its own judgements as right."""

    recall_at_1: float
    recall_at_5: float
    mrr: float


def attainable(dataset: RetrievalDataset) -> Ceiling:
    """Return the best values that any ranker which sees only the query text can reach over the raw rows.

    Rows with an equal text get the same ranking. For each text, answers are ranked by how many of the rows not yet
    answered they answer (exact where every row has one right answer, else the usual greedy cover), ties by id; a
    row's rank is that of its first right answer. A dataset without right answers has a ceiling of 0.
    """
    rows: dict[str, list[frozenset[str]]] = {}
    for query_id, group in dataset.query_groups.items():
        grades = dataset.judgements.get(query_id, {})
        right = frozenset(dataset.answer_ids[m] for m, grade in grades.items() if grade > 0)
        if right:
            rows.setdefault(group, []).append(right)
    ranks = [rank for rights in rows.values() for rank in _best_ranks(rights)]
    if not ranks:
        return Ceiling(0.0, 0.0, 0.0)
    n = len(ranks)
    return Ceiling(sum(r == 1 for r in ranks) / n, sum(r <= 5 for r in ranks) / n, sum(1 / r for r in ranks) / n)


def _best_ranks(rights: list[frozenset[str]]) -> list[int]:
    ranks: list[int] = []
    waiting = rights
    rank = 0
    while waiting:
        rank += 1
        votes = Counter(answer for right in waiting for answer in right)
        best = min(votes, key=lambda answer: (-votes[answer], answer))
        ranks.extend(rank for right in waiting if best in right)
        waiting = [right for right in waiting if best not in right]
    return ranks
