"""Components: groups of queries that must stay in one part of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.splits.near_duplicates import near_duplicate_pairs
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError


def group_values(dataset: RetrievalDataset, query_id: str, field: str) -> list[str]:
    """Return the values of a metadata field of the query, or of its positives if the query lacks the field."""
    metadata = dataset.queries[query_id].metadata
    if field in metadata:
        return list(labels_of(metadata[field]))
    positives = [m for m, grade in dataset.judgements.get(query_id, {}).items() if grade > 0]
    return [label for m in positives for label in labels_of(dataset.memories[m].metadata.get(field))]


def query_components(
    dataset: RetrievalDataset,
    query_ids: Sequence[str],
    *,
    threshold: float,
    group_field: str | None = None,
    by_answer: bool = True,
) -> NDArray[np.int64]:
    """Return the number of each query's component, [len(query_ids)].

    Two queries are connected if they share a relevant answer, have equal or near-duplicate texts, have the same value
    of `group_field`, or if the text of one is a relevant answer of the other. With `by_answer=False`, relevant answers
    connect nothing. Components are numbered by the first of `query_ids` in them. Raises DatasetError if no query has
    the group field.
    """
    nodes: dict[tuple[str, str], int] = {}
    edges: list[tuple[int, int]] = []
    text_nodes: list[str] = []
    for row, query_id in enumerate(query_ids):
        text = normalise(dataset.queries[query_id].text)
        if ("text", text) not in nodes:
            text_nodes.append(text)
        edges.append((row, _node(nodes, ("text", text), len(query_ids))))
    for row, query_id in enumerate(query_ids):
        for answer_id in dataset.relevant(query_id) if by_answer else ():
            # A query whose text is another query's relevant answer shares its node.
            answer = ("text", normalise(dataset.memories[answer_id].text))
            edges.append((row, _node(nodes, answer, len(query_ids))))
    if group_field is not None:
        edges.extend((row, _node(nodes, key, len(query_ids))) for row, key in _groups(dataset, query_ids, group_field))
    chunks = [np.asarray(edges, dtype=np.int64).reshape(-1, 2)]
    numbers = np.asarray([nodes["text", text] for text in text_nodes], dtype=np.int64)
    chunks.extend(numbers[pairs] for pairs in near_duplicate_pairs(text_nodes, threshold))
    return _number_by_first(_connect(chunks, len(query_ids) + len(nodes))[: len(query_ids)])


def _node(nodes: dict[tuple[str, str], int], key: tuple[str, str], offset: int) -> int:
    return nodes.setdefault(key, offset + len(nodes))


def _groups(
    dataset: RetrievalDataset, query_ids: Sequence[str], group_field: str
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (row, node) for each group of each query."""
    found = False
    for row, query_id in enumerate(query_ids):
        for value in group_values(dataset, query_id, group_field):
            found = True
            yield row, ("group", value)
    if query_ids and not found:
        raise DatasetError(
            f"{dataset.name}: no query and no relevant memory has the group field {group_field!r}; name another."
        )


def _connect(chunks: Sequence[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    edges = np.concatenate(chunks)
    ones = np.ones(len(edges), dtype=np.int8)
    graph = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)


def _number_by_first(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
