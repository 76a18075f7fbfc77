"""Training examples as row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import SYNTHETIC
from llama_index_ace_finetune.ranking.own_documents import NO_ROW


@dataclass(frozen=True)
class IndexedExamples:
    """Queries and the corpus as texts, answers and negatives as corpus rows.

    Attributes:
        query_ids: one per query.
        queries: texts [n].
        corpus_ids: one per document.
        corpus: texts [m]; texts that are equal after normalisation are one document.
        relevant: positive rows of each query, and of all of these queries with an equal text.
        negatives: mined rows of each query, hardest first, never a positive of any query of the data with an equal
            text.
        own: the row of each query's own document, int64 [n], -1 without one; None where no query has one. It is neither
            positive nor negative for the query, and not ranked.
        synthetic: whether a query is a synthetic one among queries of users, bool [n]; None where all are of one kind.
    """

    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    corpus_ids: tuple[str, ...]
    corpus: tuple[str, ...]
    relevant: tuple[NDArray[np.int64], ...]
    negatives: tuple[NDArray[np.int64], ...]
    own: NDArray[np.int64] | None = None
    synthetic: NDArray[np.bool_] | None = None


def index_examples(data: TrainingData, examples: Sequence[TrainingExample]) -> IndexedExamples:
    """Turn `examples` into row numbers over the corpus of `data`.

    A positive of the same query text in another part of the split is neither a positive nor a negative here.
    """
    rows: dict[str, int] = {}
    row_of: dict[str, int] = {}
    corpus_ids: list[str] = []
    corpus: list[str] = []
    for identifier, text in data.memories.items():
        row = rows.setdefault(normalise(text), len(corpus))
        if row == len(corpus):
            corpus_ids.append(identifier)
            corpus.append(text)
        row_of[identifier] = row

    def answers_by_text(some: Sequence[TrainingExample]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for example in some:
            found.setdefault(normalise(example.query), set()).update(row_of[i] for i in example.positive_ids)
        return found

    own, anywhere = answers_by_text(examples), answers_by_text((*data.examples, *examples))
    relevant, negatives = [], []
    for example in examples:
        text = normalise(example.query)
        relevant.append(np.array(sorted(own[text]), np.int64))
        mined = dict.fromkeys(row_of[i] for i in example.negative_ids)
        negatives.append(np.array([row for row in mined if row not in anywhere[text]], np.int64))
    return IndexedExamples(
        query_ids=tuple(example.query_id for example in examples),
        queries=tuple(example.query for example in examples),
        corpus_ids=tuple(corpus_ids),
        corpus=tuple(corpus),
        relevant=tuple(relevant),
        negatives=tuple(negatives),
        own=_own_rows(examples, row_of),
        synthetic=_synthetic(examples),
    )


def _own_rows(examples: Sequence[TrainingExample], row_of: dict[str, int]) -> NDArray[np.int64] | None:
    if all(example.own_id is None for example in examples):
        return None
    return np.array([NO_ROW if e.own_id is None else row_of[e.own_id] for e in examples], np.int64)


def _synthetic(examples: Sequence[TrainingExample]) -> NDArray[np.bool_] | None:
    synthetic = np.array([bool(example.metadata.get(SYNTHETIC)) for example in examples], bool)
    return synthetic if synthetic.any() and not synthetic.all() else None
