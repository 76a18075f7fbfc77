"""Which user-given group a query belongs to."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.types import RetrievalDataset


def group_values(dataset: RetrievalDataset, query_id: str, field: str) -> list[str]:
    """Return the values of a metadata field of the query, or of its right answers where the query lacks the field."""
    metadata = dataset.queries[query_id].metadata
    if field in metadata:
        values = [metadata[field]]
    else:
        right = [m for m, grade in dataset.judgements.get(query_id, {}).items() if grade > 0]
        values = [dataset.memories[m].metadata.get(field) for m in right]
    return [str(value) for value in values if value is not None]
