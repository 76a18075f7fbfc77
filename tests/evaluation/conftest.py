from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from llama_index_ace_finetune.evaluation.evaluate import (
    BASE,
    BM25,
    HYBRID_BASE,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.fusion_tuning import FusionChoice
from llama_index_ace_finetune.evaluation.measures import HEADLINE, per_query
from llama_index_ace_finetune.evaluation.significance import paired_difference
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System

CORPUS = 30


def evaluation_set(count: int, texts: Sequence[str] | None = None) -> EvaluationSet:
    """Queries whose right answer is row 0, 1, 2, ... of a corpus of 30."""
    return EvaluationSet(
        query_ids=tuple(f"q{number}" for number in range(count)),
        queries=tuple(texts or (f"query {number}" for number in range(count))),
        corpus_ids=tuple(f"m{row:02d}" for row in range(CORPUS)),
        corpus=tuple(f"memory {row}" for row in range(CORPUS)),
        relevant=tuple(np.array([number % CORPUS]) for number in range(count)),
    )


def rankings(ranks: Sequence[int | None]) -> np.ndarray:
    """Rankings in which the right answer of query i stands at ranks[i]; None leaves it out."""
    result = np.full((len(ranks), CORPUS), -1, np.int32)
    for number, rank in enumerate(ranks):
        others = [row for row in range(CORPUS) if row != number % CORPUS]
        if rank is not None:
            others.insert(rank - 1, number % CORPUS)
        result[number, : len(others)] = others
    return result


def make_evaluation(
    ranks: Mapping[str, Sequence[int | None]],
    *,
    texts: Sequence[str] | None = None,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
) -> Evaluation:
    count = len(ranks[BASE])
    data = evaluation_set(count, texts)
    systems = []
    for name in (BM25, BASE, TUNED, HYBRID_BASE, HYBRID_EQUAL, HYBRID_TUNED):
        kind = "bm25" if name == BM25 else "dense" if name in (BASE, TUNED) else "hybrid"
        systems.append(
            System(
                name=name,
                kind=kind,
                rankings=rankings(ranks.get(name, ranks[BASE])),
                weights=(0.5, 0.5) if kind == "hybrid" else None,
                cosine=np.linspace(0.2, 0.6, count, dtype=np.float32) if kind == "dense" else None,
            )
        )
    values = {
        s.name: {str(measure): per_query(measure, s.rankings, data.relevant) for measure in HEADLINE} for s in systems
    }
    return Evaluation(
        data=data,
        systems=tuple(systems),
        values=values,
        differences={
            name: {m: paired_difference(value, values[BASE][m], groups=data.groups) for m, value in measured.items()}
            for name, measured in values.items()
            if name != BASE
        },
        fusion=FusionChoice((0.5, 0.5), "equal", {0.5: 0.5}),
        metadata=metadata or {query_id: {} for query_id in data.query_ids},
    )


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """Make an evaluation from the rank of the right answer per system and query."""
    return make_evaluation


@pytest.fixture
def dev_set() -> Callable[[int], EvaluationSet]:
    return evaluation_set


@pytest.fixture
def ranked() -> Callable[[Sequence[int | None]], np.ndarray]:
    return rankings
