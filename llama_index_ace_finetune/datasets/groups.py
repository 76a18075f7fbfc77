"""Which user-given group a query belongs to."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.types import RetrievalDataset


def group_values(dataset: RetrievalDataset, query_id: str, field: str) -> list[str]:
    """Return the values of a metadata field of the query, or of its right answers where the query lacks the field."""
    metadata = dataset.queries[query_id].metadata
    if field in metadata:
        return list(labels_of(metadata[field]))
    right = [m for m, grade in dataset.judgements.get(query_id, {}).items() if grade > 0]
    return [label for m in right for label in labels_of(dataset.memories[m].metadata.get(field))]
