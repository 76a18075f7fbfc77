"""Training examples as row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise, text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import SYNTHETIC
from llama_index_ace_finetune.mining.candidates import JUDGED
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
        judged: of the negatives of each query, those that the data label as irrelevant; empty where no query has any.
        held_out: positives of queries that are held out, which are nobody's negatives, bool [m]; None for none.
    """

    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    corpus_ids: tuple[str, ...]
    corpus: tuple[str, ...]
    relevant: tuple[NDArray[np.int64], ...]
    negatives: tuple[NDArray[np.int64], ...]
    own: NDArray[np.int64] | None = None
    synthetic: NDArray[np.bool_] | None = None
    judged: tuple[NDArray[np.int64], ...] = ()
    held_out: NDArray[np.bool_] | None = None


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

    def negatives_of(example: TrainingExample, *, judged: bool) -> NDArray[np.int64]:
        found = [one.memory_id for one in example.negatives if one.source == JUDGED or not judged]
        rows = dict.fromkeys(row_of[i] for i in found)
        return np.array([row for row in rows if row not in anywhere[normalise(example.query)]], np.int64)

    judged = tuple(negatives_of(example, judged=True) for example in examples)
    return IndexedExamples(
        query_ids=tuple(example.query_id for example in examples),
        queries=tuple(example.query for example in examples),
        corpus_ids=tuple(corpus_ids),
        corpus=tuple(corpus),
        relevant=tuple(np.array(sorted(own[normalise(example.query)]), np.int64) for example in examples),
        negatives=tuple(negatives_of(example, judged=False) for example in examples),
        own=_own_rows(examples, row_of),
        synthetic=_synthetic(examples),
        judged=judged if any(map(len, judged)) else (),
        held_out=_held_out(data, examples, row_of, corpus),
    )


def join_examples(first: IndexedExamples, second: IndexedExamples) -> IndexedExamples:
    """Return the queries of both, over the corpus that they share; negatives that are held out are left out."""
    relevant = (*first.relevant, *second.relevant)
    held_out = None
    if first.held_out is not None and second.held_out is not None:
        held_out = first.held_out & second.held_out
        held_out[np.concatenate(relevant)] = False

    def allowed(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if held_out is None else rows[~held_out[rows]]

    def of_each(values: tuple[NDArray[np.int64], ...], queries: tuple[str, ...]) -> Sequence[NDArray[np.int64]]:
        return values or [np.empty(0, np.int64)] * len(queries)

    judged = (*of_each(first.judged, first.queries), *of_each(second.judged, second.queries))
    own = [np.full(len(part.queries), NO_ROW) if part.own is None else part.own for part in (first, second)]
    synthetic = [
        np.zeros(len(part.queries), np.bool_) if part.synthetic is None else part.synthetic for part in (first, second)
    ]
    return IndexedExamples(
        query_ids=(*first.query_ids, *second.query_ids),
        queries=(*first.queries, *second.queries),
        corpus_ids=first.corpus_ids,
        corpus=first.corpus,
        relevant=relevant,
        negatives=tuple(map(allowed, (*first.negatives, *second.negatives))),
        own=None if first.own is second.own is None else np.concatenate(own),
        synthetic=None if first.synthetic is second.synthetic is None else np.concatenate(synthetic),
        judged=tuple(map(allowed, judged)) if first.judged or second.judged else (),
        held_out=held_out,
    )


def _held_out(
    data: TrainingData, examples: Sequence[TrainingExample], row_of: dict[str, int], corpus: Sequence[str]
) -> NDArray[np.bool_] | None:
    """Positives of the other queries of the data, and of those that its split holds out."""
    trained = {example.query_id for example in examples}
    others = [i for example in data.examples if example.query_id not in trained for i in example.positive_ids]
    answers = (data.split or {}).get("answers") or {}
    hashes = {hashed for part in ("dev", "test") for hashed in (answers.get(part) or {}).values()}
    held_out = np.zeros(len(corpus), np.bool_)
    held_out[[row_of[i] for i in others]] = True
    if hashes:
        held_out |= np.array([text_hash(text) in hashes for text in corpus], np.bool_)
    return held_out if held_out.any() else None


def _own_rows(examples: Sequence[TrainingExample], row_of: dict[str, int]) -> NDArray[np.int64] | None:
    if all(example.own_id is None for example in examples):
        return None
    return np.array([NO_ROW if e.own_id is None else row_of[e.own_id] for e in examples], np.int64)


def _synthetic(examples: Sequence[TrainingExample]) -> NDArray[np.bool_] | None:
    synthetic = np.array([bool(example.metadata.get(SYNTHETIC)) for example in examples], bool)
    return synthetic if synthetic.any() and not synthetic.all() else None
