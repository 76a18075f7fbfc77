"""Query texts that mean different answers in different rows."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.types import RetrievalDataset


def answers_of_ambiguous_texts(dataset: RetrievalDataset) -> dict[str, frozenset[str]]:
    """Return, for query texts that rows give different right answers, query group -> all those answer ids."""
    seen: dict[str, set[frozenset[str]]] = {}
    for identifier, group in dataset.query_groups.items():
        grades = dataset.judgements.get(identifier, {})
        right = frozenset(dataset.answer_ids[m] for m, grade in grades.items() if grade > 0)
        if right:
            seen.setdefault(group, set()).add(right)
    return {group: frozenset().union(*rights) for group, rights in seen.items() if len(rights) > 1}
