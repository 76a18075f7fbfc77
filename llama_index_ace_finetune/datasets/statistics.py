"""Statistics of a dataset: sizes, duplicates, difficulty, examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llama_index_ace_finetune.datasets.ledger import Ledger
from llama_index_ace_finetune.datasets.oracle import UpperBound, upper_bound
from llama_index_ace_finetune.datasets.splits.near_duplicates import near_duplicate_pairs, words
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import Query, RetrievalDataset, answers_of_ambiguous_texts

BM25_QUERIES = 2000
"""BM25 is measured on at most this many queries, sampled by a hash of their ids."""

_SAMPLES = 3
_SHOWN = 100


@dataclass(frozen=True)
class Words:
    """Words per text, split at white space."""

    mean: float
    median: float
    p95: float

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """Count the words of each text; all zero if there are no texts."""
        counts = [len(text.split()) for text in texts] or [0]
        return cls(float(np.mean(counts)), float(np.median(counts)), float(np.percentile(counts, 95)))


@dataclass(frozen=True)
class BM25Recall:
    """Fraction of `queries` queries with a relevant memory in the first 1, 5 and 10 results of BM25, and MRR@10."""

    queries: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mrr_at_10: float


@dataclass(frozen=True)
class Sample:
    """One query with one of its relevant memories."""

    query_id: str
    query: str
    answer_id: str
    answer: str


@dataclass(frozen=True)
class DatasetStatistics:
    """Sizes, duplicates, difficulty and examples of a dataset.

    `answers` counts distinct memory texts, `query_texts` distinct query texts; `right` and `wrong` count judgements
    with a grade above 0 and of 0 or less. `ambiguous_query_texts` are texts with different relevant memories in
    different rows, `ambiguous_queries` those rows. `near_duplicate_*` count texts that almost equal another, without
    equal ones. `word_overlap` is the mean fraction of a query's distinct words that are in the relevant memory that has
    most of them. (The report's lexical overlap counts the terms of BM25 instead: stemmed, without stop words.)
    """

    name: str
    format: str
    memories: int
    answers: int
    queries: int
    query_texts: int
    right: int
    wrong: int
    queries_without_answer: int
    answers_per_query_mean: float
    answers_per_query_max: int
    memory_words: Words
    query_words: Words
    near_duplicate_memories: int
    near_duplicate_queries: int
    ambiguous_query_texts: int
    ambiguous_queries: int
    ceiling: UpperBound
    word_overlap: float
    bm25: BM25Recall
    samples: tuple[Sample, ...]
    ledger: Ledger

    def lines(self) -> list[str]:
        """Return the statistics as lines of text."""
        q, m, b, c = self.query_words, self.memory_words, self.bm25, self.ceiling
        lines = [
            f"{self.name} (read as {self.format})",
            f"memories          {self.memories:,} ({self.answers:,} distinct texts, "
            f"{self.near_duplicate_memories:,} near-duplicates)",
            f"queries           {self.queries:,} ({self.query_texts:,} distinct texts, "
            f"{self.near_duplicate_queries:,} near-duplicates)",
            f"judgements        {self.right:,} relevant, {self.wrong:,} not relevant; "
            f"{self.queries_without_answer:,} queries without a relevant memory",
            f"answers per query {self.answers_per_query_mean:.2f} on average, {self.answers_per_query_max} at most",
            f"words per memory  mean {m.mean:.1f}, median {m.median:g}, 95% up to {m.p95:g}",
            f"words per query   mean {q.mean:.1f}, median {q.median:g}, 95% up to {q.p95:g}",
            f"ambiguous         {self.ambiguous_query_texts:,} query texts with different relevant memories "
            f"({self.ambiguous_queries:,} rows)",
            f"attainable        R@1 {c.recall_at_1:.3f}, R@5 {c.recall_at_5:.3f}, MRR {c.mrr:.3f} "
            "at most, if a row counts only its own judgements",
            f"word overlap      {self.word_overlap:.3f} of a query's words are in its relevant memory",
            f"BM25              R@1 {b.recall_at_1:.3f}, R@5 {b.recall_at_5:.3f}, R@10 {b.recall_at_10:.3f}, "
            f"MRR@10 {b.mrr_at_10:.3f} ({b.queries:,} queries, any relevant memory counts)",
        ]
        lines.extend(f"noted             {line}" for line in self.ledger.lines())
        for sample in self.samples:
            lines.append(f"sample            {sample.query_id}: {_shorten(sample.query)}")
            lines.append(f"               -> {sample.answer_id}: {_shorten(sample.answer)}")
        return lines


def inspect_dataset(dataset: RetrievalDataset) -> DatasetStatistics:
    """Measure a dataset; BM25 runs over the distinct memory texts."""
    answered = [dataset.queries[i] for i in sorted(dataset.queries) if dataset.relevant(i)]
    per_query = [len(dataset.relevant(query.id)) for query in answered]
    grades = [grade for held in dataset.judgements.values() for grade in held.values()]
    ambiguous = answers_of_ambiguous_texts(dataset)
    query_texts = sorted({normalise(query.text) for query in dataset.queries.values()})
    memory_texts = sorted(normalise(memory.text) for memory in dataset.answers.values())
    drawn = sorted(answered, key=_draw)
    return DatasetStatistics(
        name=dataset.name,
        format=dataset.ledger.format,
        memories=len(dataset.memories),
        answers=len(dataset.answers),
        queries=len(dataset.queries),
        query_texts=len(query_texts),
        right=sum(grade > 0 for grade in grades),
        wrong=sum(grade <= 0 for grade in grades),
        queries_without_answer=len(dataset.queries) - len(answered),
        answers_per_query_mean=float(np.mean(per_query)) if per_query else 0.0,
        answers_per_query_max=max(per_query, default=0),
        memory_words=Words.of(memory.text for memory in dataset.memories.values()),
        query_words=Words.of(query.text for query in dataset.queries.values()),
        near_duplicate_memories=_near_duplicates(memory_texts),
        near_duplicate_queries=_near_duplicates(query_texts),
        ambiguous_query_texts=len(ambiguous),
        ambiguous_queries=sum(group in ambiguous for group in dataset.query_groups.values()),
        ceiling=upper_bound(dataset),
        word_overlap=_word_overlap(dataset, answered),
        bm25=_bm25(dataset, drawn[:BM25_QUERIES]),
        samples=tuple(_sample(dataset, query) for query in drawn[:_SAMPLES]),
        ledger=dataset.ledger,
    )


def _draw(query: Query) -> str:
    return hashlib.sha256(query.id.encode("utf-8", "surrogatepass")).hexdigest()


def _near_duplicates(texts: Sequence[str]) -> int:
    """Return how many texts have a near-duplicate among the others."""
    found: set[int] = set()
    for pairs in near_duplicate_pairs(texts, SplitSettings().near_duplicate):
        found.update(pairs.ravel().tolist())
    return len(found)


def _word_overlap(dataset: RetrievalDataset, queries: Sequence[Query]) -> float:
    held: dict[str, frozenset[str]] = {}
    overlaps = []
    for query in queries:
        asked = words(normalise(query.text))
        best = 0.0
        for answer_id in dataset.relevant(query.id):
            if answer_id not in held:
                held[answer_id] = words(normalise(dataset.memories[answer_id].text))
            best = max(best, len(asked & held[answer_id]) / len(asked))
        overlaps.append(best)
    return float(np.mean(overlaps)) if overlaps else 0.0


def _bm25(dataset: RetrievalDataset, queries: Sequence[Query]) -> BM25Recall:
    from llama_index_ace_finetune.ranking.bm25 import BM25Index
    from llama_index_ace_finetune.ranking.own_documents import NO_ROW, without_own

    if not queries:
        return BM25Recall(0, 0.0, 0.0, 0.0, 0.0)
    answer_ids = list(dataset.answers)
    index = BM25Index.build([memory.text for memory in dataset.answers.values()])
    found, _ = index.search_batch([query.text for query in queries], 11)
    row_of = {answer: row for row, answer in enumerate(answer_ids)}
    own = np.array([row_of.get(dataset.own_answer(query.id) or "", NO_ROW) for query in queries], np.int64)
    found, _ = without_own(found, own, limit=10)
    ranks = []
    for query, row in zip(queries, found.tolist(), strict=True):
        relevant = dataset.relevant(query.id)
        ranks.append(next((n for n, i in enumerate(row, 1) if i >= 0 and answer_ids[i] in relevant), 0))
    rank = np.asarray(ranks)
    hit = rank > 0
    return BM25Recall(
        queries=len(queries),
        recall_at_1=float(np.mean(rank == 1)),
        recall_at_5=float(np.mean(hit & (rank <= 5))),
        recall_at_10=float(np.mean(hit)),
        mrr_at_10=float(np.mean(np.where(hit, 1 / np.maximum(rank, 1), 0.0))),
    )


def _sample(dataset: RetrievalDataset, query: Query) -> Sample:
    answer_id = min(dataset.relevant(query.id))
    return Sample(query.id, query.text, answer_id, dataset.memories[answer_id].text)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
