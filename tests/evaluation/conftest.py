from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES, Choice, choose, choose_on_few
from llama_index_ace_finetune.evaluation.choosing.structures import Embedding, Structure
from llama_index_ace_finetune.evaluation.fusion_weights import FusionChoice
from llama_index_ace_finetune.evaluation.metrics.measures import MEASURES, MRR, measure_rankings, per_query
from llama_index_ace_finetune.evaluation.result import (
    BASE,
    BM25,
    HYBRID_BASE,
    HYBRID_BASE_CONVEX,
    HYBRID_BASE_WEIGHTED,
    HYBRID_CONVEX,
    HYBRID_EQUAL,
    HYBRID_TUNED,
    TUNED,
    Evaluation,
)
from llama_index_ace_finetune.evaluation.stats.comparison import compare_measures
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System

CORPUS = 30


def evaluation_set(count: int, texts: Sequence[str] | None = None) -> EvaluationSet:
    """Queries whose relevant document is row 0, 1, 2, ... of a corpus of 30."""
    return EvaluationSet(
        query_ids=tuple(f"q{number}" for number in range(count)),
        queries=tuple(texts or (f"query {number}" for number in range(count))),
        corpus_ids=tuple(f"m{row:02d}" for row in range(CORPUS)),
        corpus=tuple(f"memory {row}" for row in range(CORPUS)),
        relevant=tuple(np.array([number % CORPUS]) for number in range(count)),
    )


def rankings(ranks: Sequence[int | None]) -> np.ndarray:
    """Rankings in which the relevant document of query i is at ranks[i]; None leaves it out."""
    result = np.full((len(ranks), CORPUS), -1, np.int32)
    for number, rank in enumerate(ranks):
        others = [row for row in range(CORPUS) if row != number % CORPUS]
        if rank is not None:
            others.insert(rank - 1, number % CORPUS)
        result[number, : len(others)] = others
    return result


def make_candidates(dev: Mapping[str, np.ndarray], count: int) -> list[Candidate]:
    """What can be served, from the reciprocal ranks of the systems on dev."""

    def of(structure: Structure, *names: str) -> Candidate:
        return Candidate(structure, np.stack([dev.get(name, np.zeros(count)) for name in names]))

    made = [of(Structure("none", "convex", ("bm25",), ((1.0,),), (1.0,)), BM25)]
    models: tuple[tuple[Embedding, tuple[str, ...], str], ...] = (
        ("base", (HYBRID_BASE, HYBRID_BASE_WEIGHTED), HYBRID_BASE_CONVEX),
        ("tuned", (HYBRID_EQUAL, HYBRID_TUNED), HYBRID_CONVEX),
    )
    for name, ranked_hybrids, scored in models:
        made += [
            of(Structure(name, "convex", ("dense",), ((1.0,),), (1.0,)), name),
            of(Structure(name, "rrf", ("dense", "bm25"), ((0.5, 0.5), (0.7, 0.3)), (0.5, 0.5)), *ranked_hybrids),
            of(Structure(name, "convex", ("dense", "bm25"), ((0.8, 0.2),), (0.8, 0.2)), scored),
        ]
    return made


def make_choice(candidates: Sequence[Candidate], groups: Sequence[str] | None) -> Choice:
    few = candidates[0].values.shape[1] < MIN_QUERIES
    return choose_on_few(candidates, groups=groups) if few else choose(candidates, groups=groups)


def make_evaluation(
    ranks: Mapping[str, Sequence[int | None]],
    *,
    dev: Mapping[str, Sequence[int | None]] | None = None,
    weights: tuple[float, float] = (0.5, 0.5),
    base_weights: tuple[float, float] = (0.5, 0.5),
    dev_groups: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
) -> Evaluation:
    """An evaluation from the rank of the relevant document per system and query, by default those of the base."""
    count = len(ranks[BASE])
    data = evaluation_set(count, texts)
    names = [BM25, BASE, HYBRID_BASE, HYBRID_BASE_WEIGHTED, HYBRID_BASE_CONVEX]
    names += [TUNED, HYBRID_EQUAL, HYBRID_TUNED, HYBRID_CONVEX]
    systems = []
    for name in [*names, *(other for other in ranks if other not in names)]:
        kind = "bm25" if name == BM25 else "hybrid" if "+" in name else "dense"
        systems.append(
            System(
                name=name,
                kind=kind,
                rankings=rankings(ranks.get(name, ranks[BASE])),
                fusion="rrf" if kind == "hybrid" else "",
                weights=(0.5, 0.5) if kind == "hybrid" else None,
                cosine=np.linspace(0.2, 0.6, count) if kind == "dense" else None,
                trained=name.startswith(TUNED),
            )
        )
    values = {s.name: measure_rankings(MEASURES, s.rankings, data.qrels) for s in systems}
    dev_values = {}
    if dev:
        dev_data = evaluation_set(len(dev[BASE]))
        dev_values = {name: per_query(MRR(10), rankings(dev.get(name, dev[BASE])), dev_data.relevant) for name in names}
    candidates = make_candidates(dev_values, len(dev[BASE]) if dev else 0)
    untuned = [one for one in candidates if not one.structure.trained]
    fallback = [one for one in untuned if one.structure.embedding == "base"]
    curve = {0.0: 0.4, 0.5: 0.5, 1.0: 0.6} if dev else {}
    return Evaluation(
        data=data,
        systems=tuple(systems),
        values=values,
        comparisons=compare_measures(values, base=BASE, groups=data.groups, resamples=2000),
        fusion=FusionChoice(weights, "a reason", curve),
        base_fusion=FusionChoice(base_weights, "another reason", curve),
        convex_fusion=FusionChoice((0.5, 0.5), "a third", curve),
        choice=make_choice(candidates, dev_groups),
        untuned_choice=make_choice(untuned, dev_groups),
        fallback_choice=make_choice(fallback, dev_groups),
        candidates=candidates,
        dev_values=dev_values,
        metadata=metadata or {query_id: {} for query_id in data.query_ids},
    )


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """Make an evaluation from the rank of the relevant document per system and query."""
    return make_evaluation


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plots, which take most of their time, for tests that look at other parts."""
    names = ("differences", "movement", "slices", "weights", "speed", "storage", "training", "learning")
    monkeypatch.setattr("llama_index_ace_finetune.evaluation.report.html._plots", lambda *_, **__: dict.fromkeys(names))


@pytest.fixture
def dev_set() -> Callable[[int], EvaluationSet]:
    return evaluation_set


@pytest.fixture
def ranked() -> Callable[[Sequence[int | None]], np.ndarray]:
    return rankings
