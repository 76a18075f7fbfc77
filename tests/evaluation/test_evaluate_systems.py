from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.evaluation.choosing.known_queries import OFFSETS, WEIGHTS
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.decision.selection import select_system
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
from llama_index_ace_finetune.evaluation.metrics.measures import NDCG, per_query
from llama_index_ace_finetune.evaluation.metrics.trec_run import TrecRun, write_run
from llama_index_ace_finetune.evaluation.report.rank_changes import first_relevant_ranks
from llama_index_ace_finetune.evaluation.result import Evaluation
from llama_index_ace_finetune.evaluation.systems import EvaluationSet
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import fuse_rankings


@pytest.fixture(scope="module")
def worse(minilm: Encoder) -> Encoder:
    """The base with noise in its weights, used as the tuned model."""
    model = copy.deepcopy(minilm.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return Encoder(model, name="worse", fingerprint="worse", settings=minilm.settings)


@pytest.fixture(scope="module")
def parts(small_dataset: RetrievalDataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    split = split_dataset(small_dataset)
    return split.test, split.dev


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def compared(
    small_dataset: RetrievalDataset,
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    minilm: Encoder,
    worse: Encoder,
    cache: Path,
) -> Evaluation:
    train = split_dataset(small_dataset).train
    held_out = {"test_known": train[::6], "dev_known": train[1::6]}
    rest = [one for place, one in enumerate(train) if place % 6 > 1]
    known = KnownQueries(
        tuple(small_dataset.queries[one].text for one in rest),
        tuple(tuple(sorted(small_dataset.relevant(one))) for one in rest),
    )
    return evaluate_systems(
        small_dataset, test=parts[0], dev=parts[1], **held_out, known_queries=known, base=minilm, tuned=worse,
        cache=cache,
    )  # fmt: skip


def test_every_system_ranks_every_test_query(
    compared: Evaluation, parts: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    assert [system.name for system in compared.systems] == [
        "BM25",
        "base",
        "base + BM25",
        "base + BM25, dev weights",
        "base + BM25, convex",
        *dict.fromkeys([compared.untuned_choice.candidate.structure.name, compared.untuned_choice.system_name]),
        "tuned",
        "tuned + BM25",
        "tuned + BM25, dev weights",
        "tuned + BM25, convex",
        *dict.fromkeys([compared.choice.candidate.structure.name, compared.choice.system_name]),
    ]
    assert compared.data.query_ids == parts[0]
    for system in compared.systems:
        assert len(system.rankings) == len(parts[0])
        for values in compared.values[system.name].values():
            assert len(values) == len(parts[0])
            assert ((values >= 0) & (values <= 1)).all()
    assert set(compared.metadata) == set(parts[0])


def test_weights_before_a_refit_choose_on_dev_and_those_after_it_are_tested(
    compared: Evaluation,
    small_dataset: RetrievalDataset,
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    minilm: Encoder,
    worse: Encoder,
    cache: Path,
) -> None:
    """`compared` is the evaluation before the refit, of the noisy weights; "refitted" has the weights of the base."""
    refitted = Encoder(minilm.model, name="refitted", fingerprint="refitted", settings=minilm.settings)
    both = evaluate_systems(
        small_dataset, test=parts[0], dev=parts[1], base=minilm, tuned=refitted, selected=worse, cache=cache,
        timed_queries=0,
    )  # fmt: skip
    for ours, theirs in zip(both.candidates, compared.candidates, strict=True):
        assert ours.structure == theirs.structure
        assert np.array_equal(ours.values, theirs.values)
    assert np.array_equal(both.dev_values["tuned"], compared.dev_values["tuned"])
    assert not np.array_equal(both.dev_values["tuned"], both.dev_values["base"])
    assert np.array_equal(both.system("tuned").rankings, both.system("base").rankings)
    assert not np.array_equal(both.system("tuned").rankings, compared.system("tuned").rankings)


def test_verdict_says_how_token_vectors_are_pooled(small_dataset: RetrievalDataset, minilm: Encoder) -> None:
    """With few dev queries late interaction is served by default."""
    ids = sorted(small_dataset.queries)
    measured = {"test": ids[:4], "dev": ids[4:8], "base": minilm, "tuned": minilm, "timed_queries": 0}
    whole = evaluate_systems(small_dataset, **measured)
    assert "late" in whole.choice.candidate.structure.legs
    assert "token_pooling" not in reach_verdict(whole, None).serving
    late = next(one for one in whole.candidates if one.structure.legs == ("dense", "late"))
    assert late.bytes_per_memory is not None
    limits = ServingLimits(bytes_per_memory=late.bytes_per_memory - 1)
    pooled = reach_verdict(evaluate_systems(small_dataset, **measured, limits=limits), None).serving
    assert "late" in pooled["fusion"]["weights"]
    assert pooled["token_pooling"] == 2


def test_rankings_match_the_components(compared: Evaluation, small_dataset: RetrievalDataset, minilm: Encoder) -> None:
    data = compared.data
    assert data.corpus == tuple(memory.text for memory in small_dataset.answers.values())
    cosines = minilm.encode_queries(data.queries) @ minilm.encode_documents(data.corpus).T
    base = compared.system("base")
    assert base.rankings.tolist() == np.argsort(-cosines, axis=1, kind="stable").tolist()
    relevant = [np.mean(row[rows]) for row, rows in zip(cosines, data.relevant, strict=True)]
    assert base.cosine == pytest.approx(np.array(relevant), abs=1e-5)
    lexical = compared.system("BM25").rankings
    expected, _ = BM25Index.build(data.corpus).search_batch(list(data.queries), 100)
    assert [[r for r in row if r >= 0] for row in lexical.tolist()] == [
        [r for r in row if r >= 0] for row in expected.tolist()
    ]
    fused = fuse_rankings([base.rankings, lexical], limit=100)
    assert compared.system("base + BM25").rankings.tolist() == fused.tolist()
    ranks = [row.index(int(rows[0])) + 1 for row, rows in zip(base.rankings.tolist(), data.relevant, strict=True)]
    assert compared.values["base"]["Success@1"].tolist() == [float(rank == 1) for rank in ranks]
    assert compared.mean("base", "MRR@10") == pytest.approx(np.mean([1 / r if r <= 10 else 0 for r in ranks]))


def test_queries_about_known_memories_are_ranked_apart(
    compared: Evaluation, small_dataset: RetrievalDataset, minilm: Encoder
) -> None:
    assert compared.known is not None
    data = compared.known.data
    assert data.query_ids == split_dataset(small_dataset).train[::6]
    cosines = minilm.encode_queries(data.queries) @ minilm.encode_documents(data.corpus).T
    first = [int(row.argmax()) in rows for row, rows in zip(cosines, data.relevant, strict=True)]
    assert compared.known.values["base"]["Success@1"].tolist() == first
    assert compared.known.mean("base", "Success@1") > compared.known.mean("tuned", "Success@1")
    assert set(compared.known.values) == {system.name for system in compared.systems}


def test_known_queries_are_compared_on_both_kinds_of_dev_queries(compared: Evaluation) -> None:
    choice = compared.untuned_choice
    found = choice.known_queries
    assert found is not None
    assert list(found.new) == list(found.known) == [None, *OFFSETS]
    assert found.new[None] == pytest.approx(choice.values.mean())
    # Another query about the same memory can only bring it nearer.
    assert found.known[0.0] >= found.known[None]
    served = select_system(compared, tuned=False)
    assert served.name == choice.system_name
    assert (served.known_query_offset is None) == (found.offset is None)
    assert f"; known queries: {found.reason}" in served.reason
    assert served.known_query_weight == found.weight
    if {"bm25", "bm25_unstemmed"} & set(choice.candidate.structure.legs):
        assert found.bm25 is not None
        assert list(found.bm25.new) == list(found.bm25.known) == [0, *WEIGHTS]
        assert found.bm25.new[0] == found.new[found.offset]
        assert f"; known queries in BM25: {found.bm25.reason}" in served.reason


def test_worse_model_is_significantly_worse(compared: Evaluation) -> None:
    difference = compared.difference("tuned")
    assert compared.mean("tuned", "MRR@10") < compared.mean("base", "MRR@10")
    assert difference.mean == pytest.approx(compared.mean("tuned", "MRR@10") - compared.mean("base", "MRR@10"))
    assert difference.losses > difference.wins
    assert "base" not in compared.comparisons["MRR@10"].differences
    adjusted = compared.comparisons["MRR@10"].adjusted["tuned"]
    assert difference.p_value <= adjusted <= min(1, 7 * difference.p_value)


def test_same_model_twice_has_no_difference(
    small_dataset: RetrievalDataset, parts: tuple[tuple[str, ...], tuple[str, ...]], minilm: Encoder, cache: Path
) -> None:
    counted: list[int] = []
    result = evaluate_systems(
        small_dataset, test=parts[0], dev=(), base=minilm, tuned=minilm, cache=cache, progress=counted.append
    )
    difference = result.difference("tuned")
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.ties == len(parts[0])
    assert result.fusion.weights == (0.5, 0.5)
    assert "0 dev queries are too few" in result.fusion.reason
    equal = result.system("tuned + BM25").rankings.tolist()
    assert result.system("tuned + BM25, dev weights").rankings.tolist() == equal
    with warnings.catch_warnings():
        # A mean of no dev query would warn.
        warnings.simplefilter("error")
        assert reach_verdict(result, None).system.reason == "0 dev queries are too few to select a system on"
    # Vectors of both, and tokens of the corpus by the one model.
    assert sum(counted) == 2 * len(parts[0]) + 3 * len(small_dataset.answers)


def test_measures_match_the_rankings(compared: Evaluation) -> None:
    for system in compared.systems:
        ranks = first_relevant_ranks(system.rankings, compared.data.relevant)
        values = compared.values[system.name]
        assert list(values) == ["Success@1", "Success@5", "MRR@10", "Recall@10", "nDCG@10", "MAP@100"]
        # Every query has one relevant document, so all measures are functions of its rank.
        found = ranks > 0
        assert values["nDCG@10"] == pytest.approx([1 / np.log2(r + 1) if 0 < r <= 10 else 0 for r in ranks.tolist()])
        assert values["MAP@100"] == pytest.approx(np.divide(1, ranks, where=found, out=np.zeros(len(ranks))))
        assert values["Recall@10"].tolist() == (found & (ranks <= 10)).tolist()


def test_encoding_and_search_are_timed_separately(compared: Evaluation) -> None:
    assert set(compared.latency) == {"BM25", "base", "base + BM25", "tuned", "tuned + BM25"}
    assert compared.latency["BM25"].encode is None
    for latency in compared.latency.values():
        for timed in (latency.encode, latency.search):
            if timed is not None:
                assert 0 < timed.p50_ms <= timed.p95_ms
                assert timed.calls == len(compared.data.queries)


def test_further_systems_are_in_the_same_evaluation(
    small_dataset: RetrievalDataset,
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    minilm: Encoder,
    worse: Encoder,
    cache: Path,
    tmp_path: Path,
) -> None:
    test = parts[0]
    relevant = {query: sorted(small_dataset.relevant(query))[0] for query in test}
    irrelevant = {query: next(i for i in small_dataset.answers if i != relevant[query]) for query in test}
    # First an irrelevant document, then the relevant one; the first query is missing.
    hits = {query: [(irrelevant[query], 2.0), (relevant[query], 1.0)] for query in test[1:]}
    path = tmp_path / "run.txt"
    write_run(path, TrecRun("saved", hits))
    result = evaluate_systems(
        small_dataset,
        test=test,
        dev=(),
        base=minilm,
        tuned=minilm,
        also=[worse],
        retrievers={"keywords": ByText(small_dataset)},
        runs=[path],
        cache=cache,
        timed_queries=0,
        late_interaction=False,
    )
    assert [system.name for system in result.systems[-3:]] == ["worse", "keywords", "saved"]
    assert result.mean("saved", "MRR@10") == pytest.approx(0.5 * (len(test) - 1) / len(test))
    assert result.values["saved"]["MRR@10"][0] == 0
    # An unknown hit keeps its rank, a repeated one does not.
    assert result.mean("keywords", "MRR@10") == pytest.approx(1 / 3)
    assert result.latency == {}
    with pytest.raises(AceFinetuneError, match="Two systems have the name 'worse'"):
        evaluate_systems(
            small_dataset, test=test, dev=(), base=minilm, tuned=minilm, also=[worse, worse], late_interaction=False
        )
    write_run(path, TrecRun("strange", {test[0]: [("nowhere", 1.0)]}))
    with pytest.raises(DatasetError, match="document 'nowhere' is not in"):
        evaluate_systems(
            small_dataset, test=test, dev=(), base=minilm, tuned=minilm, runs=[path], late_interaction=False
        )


class ByText(BaseRetriever):
    """Returns an unknown hit, an irrelevant document twice, and then the relevant one."""

    def __init__(self, dataset: RetrievalDataset) -> None:
        self.dataset = dataset
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = next(q.id for q in self.dataset.queries.values() if q.text == query_bundle.query_str)
        relevant = sorted(self.dataset.relevant(query))[0]
        irrelevant = next(i for i in self.dataset.answers if i != relevant)
        ids = ["stranger", irrelevant, irrelevant, relevant]
        texts = {i: memory.text for i, memory in self.dataset.memories.items()}
        return [NodeWithScore(node=TextNode(id_=i, text=texts.get(i, "?")), score=1 / n) for n, i in enumerate(ids, 1)]


def test_ndcg_uses_grades_of_the_dataset() -> None:
    texts = {"a": "one", "b": "two", "c": "three"}
    data = EvaluationSet.of(
        RetrievalDataset(
            name="graded",
            memories={i: Memory(i, text) for i, text in texts.items()},
            queries={"q": Query("q", "how?"), "r": Query("r", "HOW?")},
            judgements={"q": {"a": 1.0, "b": 0.0}, "r": {"a": 3.0, "c": 1.0}},
        ),
        ["q"],
    )
    assert [rows.tolist() for rows in data.relevant] == [[0, 2]]
    assert data.grades is not None
    assert data.grades[0].tolist() == [3.0, 1.0]
    # c before a: (1 + 3 / log2(3)) / (3 + 1 / log2(3))
    value = per_query(NDCG(10), np.array([[2, 0]], np.int32), data.qrels)
    assert value[0] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))


def test_missing_test_queries_are_refused(small_dataset: RetrievalDataset, minilm: Encoder) -> None:
    with pytest.raises(DatasetError, match="there is no held-out query to evaluate on"):
        evaluate_systems(small_dataset, test=(), dev=(), base=minilm, tuned=minilm)


def test_copy_of_a_relevant_text_is_relevant() -> None:
    texts = {"b": "Restart it", "a": "restart  it", "c": "Wait", "d": "Stop"}
    data = EvaluationSet.of(
        RetrievalDataset(
            name="copies",
            memories={i: Memory(i, text) for i, text in texts.items()},
            queries={"q": Query("q", "how?"), "r": Query("r", "HOW?"), "s": Query("s", "new")},
            judgements={"q": {"b": 1.0}, "r": {"d": 1.0}},
        ),
        ["q", "s"],
    )
    assert data.corpus_ids == ("a", "c", "d")
    assert [rows.tolist() for rows in data.relevant] == [[0, 2], []]
    assert data.groups == ["a", "s"]
    # Per-query values are written one by one; the cost per query must not grow with the number of queries.
    assert data.groups is data.groups
