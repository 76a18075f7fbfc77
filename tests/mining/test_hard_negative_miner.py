from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mining_options import plain
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, ModelError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.settings import SamplingStrategy
from llama_index_ace_finetune.stores.qdrant.live_collection import LiveCollection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture
def miner(minilm: Encoder, cache: Path) -> HardNegativeMiner:
    return HardNegativeMiner(encoder=minilm, cache=cache, settings=plain())


def copies() -> RetrievalDataset:
    """Memories with equal texts, int ids in the source, and two queries with one text and different positives."""
    texts = {
        "10": "Restart the queue worker after every deploy",
        "11": "restart the  queue worker after every DEPLOY",
        "12": "Restart the queue worker after every deploy!",
        "20": "Drain the queue before the database is upgraded",
        "21": "The worker restarts on its own after a crash",
        "22": "Ask the release manager before a deploy on Friday",
    }
    return RetrievalDataset(
        name="copies",
        memories={i: Memory(i, text, {"source_id": int(i)}) for i, text in texts.items()},
        queries={
            "q1": Query("q1", "do I restart the worker after a deploy?"),
            "q2": Query("q2", "Do I restart the  worker after a deploy?"),
            "q3": Query("q3", "worker crashed"),
        },
        judgements={"q1": {"11": 1.0}, "q2": {"20": 2.0}, "q3": {"21": 1.0, "22": 0.0}},
    )


def test_negatives_are_distinct_hardest_first_and_never_positives(
    miner: HardNegativeMiner, small_dataset: RetrievalDataset, minilm: Encoder
) -> None:
    query_ids = list(small_dataset.queries)
    found = miner.mine(small_dataset, query_ids, count=4)
    assert list(found) == query_ids
    for query_id, negatives in found.items():
        ids = [negative.memory_id for negative in negatives]
        assert len(ids) == len(set(ids)) == 4
        assert not set(ids) & small_dataset.relevant(query_id)
        assert [n.rank for n in negatives] == sorted(n.rank or 0 for n in negatives)
        assert {n.source for n in negatives} <= {"dense", "bm25"}
    query_id = query_ids[0]
    dense = next(negative for negative in found[query_id] if negative.source == "dense")
    vectors = minilm.encode_queries([small_dataset.queries[query_id].text])
    document = minilm.encode_documents([small_dataset.memories[dense.memory_id].text])
    assert dense.score == pytest.approx(float(vectors[0] @ document[0]), abs=1e-5)
    report = miner.report
    assert report["queries"] == 60
    assert report["kept"] == 240
    assert report["filtered"]["right answer"] == 60


def test_mining_is_deterministic(miner: HardNegativeMiner, small_dataset: RetrievalDataset, minilm: Encoder) -> None:
    query_ids = list(small_dataset.queries)[:15]
    first = miner.mine(small_dataset, query_ids, count=3)
    again = HardNegativeMiner(encoder=minilm, settings=plain()).mine(small_dataset, query_ids, count=3)
    assert again == first


def test_equal_texts_are_one_answer(miner: HardNegativeMiner) -> None:
    found = miner.mine(copies(), ["q1", "q2", "q3"], count=6)
    # 10 and 11 hold one text, 12 is a near-duplicate of it; q1 and q2 are one text, so 20 is a positive of both.
    assert {negative.memory_id for negative in found["q1"]} == {"21", "22"}
    assert {negative.memory_id for negative in found["q2"]} == {"21", "22"}
    assert found["q3"][0].memory_id == "22"
    assert found["q3"][0].source == "judged"
    assert miner.report["filtered"]["near-duplicate"] >= 2
    assert miner.report["queries_with_fewer"] == 3


def test_excluded_answers_are_never_negatives(miner: HardNegativeMiner) -> None:
    found = miner.mine(copies(), ["q1", "q3"], count=6, excluded=frozenset({"22"}))
    assert {negative.memory_id for negatives in found.values() for negative in negatives} == {"10", "12", "20", "21"}
    assert {negative.memory_id for negative in found["q1"]} == {"21"}


def test_dense_only(minilm: Encoder, cache: Path) -> None:
    miner = HardNegativeMiner(encoder=minilm, cache=cache, settings=plain(bm25=False))
    found = miner.mine(copies(), ["q1"], count=2)
    assert {negative.source for negative in found["q1"]} == {"dense"}


def test_filter_that_rejects_all_candidates_is_named(minilm: Encoder, cache: Path) -> None:
    miner = HardNegativeMiner(encoder=minilm, cache=cache, settings=plain(near_duplicate=0.01))
    with pytest.raises(DatasetError, match="3 of them as 'near-duplicate'"):
        miner.mine(copies(), ["q1"], count=2)


def test_query_without_a_positive_is_refused(miner: HardNegativeMiner) -> None:
    data = copies()
    data = RetrievalDataset("copies", data.memories, {**data.queries, "q9": Query("q9", "new")}, data.judgements)
    with pytest.raises(DatasetError, match="query 'q9' has no positive in the corpus"):
        miner.mine(data, ["q1", "q9"], count=2)


def test_progress_counts_queries_and_memories(minilm: Encoder, small_dataset: RetrievalDataset) -> None:
    done: list[int] = []
    HardNegativeMiner(encoder=minilm, settings=plain()).mine(
        small_dataset, list(small_dataset.queries)[:3], count=1, progress=done.append
    )
    assert sum(done) == 3 + len(small_dataset.answers)


def test_top_k_overrides_range_max() -> None:
    assert HardNegativeMiner().settings.range_max == 50
    assert HardNegativeMiner(settings=plain(range_max=7, seed=2)).settings == plain(range_max=7, seed=2)
    assert HardNegativeMiner(None, "c", None, None, 50, settings=plain(range_max=7)).settings.range_max == 50


def test_miner_without_a_source_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="no source of candidates; enable dense or bm25"):
        HardNegativeMiner(settings=plain(dense=False, bm25=False))


def test_bm25_only(minilm: Encoder, cache: Path) -> None:
    miner = HardNegativeMiner(encoder=minilm, cache=cache, settings=plain(dense=False))
    found = miner.mine(copies(), ["q1"], count=2)
    assert {negative.source for negative in found["q1"]} == {"bm25"}


@pytest.mark.parametrize("sampling_strategy", ["top", "random", "spread"])
def test_count_larger_than_the_corpus(minilm: Encoder, cache: Path, sampling_strategy: SamplingStrategy) -> None:
    miner = HardNegativeMiner(
        encoder=minilm, cache=cache, settings=plain(range_max=10**9, sampling_strategy=sampling_strategy)
    )
    found = miner.mine(copies(), ["q1", "q3"], count=1000)
    assert {negative.memory_id for negative in found["q1"]} == {"21", "22"}
    assert {negative.memory_id for negative in found["q3"]} == {"10", "12", "20", "22"}
    assert miner.report["queries_with_fewer"] == 2


def test_corpus_of_one_memory_is_refused(miner: HardNegativeMiner) -> None:
    data = RetrievalDataset(
        "one", {"1": Memory("1", "Restart the worker")}, {"q": Query("q", "restart")}, {"q": {"1": 1.0}}
    )
    with pytest.raises(DatasetError, match=r"All 1 candidates .* 1 of them as 'right answer'; add memories"):
        miner.mine(data, ["q"], count=3)


def test_random_draw_does_not_depend_on_other_queries(minilm: Encoder, small_dataset: RetrievalDataset) -> None:
    settings = plain(sampling_strategy="random", seed=5)
    query_ids = list(small_dataset.queries)[:12]
    miner = HardNegativeMiner(encoder=minilm, settings=settings)
    everything = miner.mine(small_dataset, query_ids, count=3)
    backwards = miner.mine(small_dataset, query_ids[::-1], count=3)
    assert {i: [n.memory_id for n in backwards[i]] for i in query_ids} == {
        i: [n.memory_id for n in everything[i]] for i in query_ids
    }
    query = small_dataset.queries[query_ids[4]]
    miner.use(small_dataset)
    (relevant,) = small_dataset.relevant(query.id)
    single = miner.mine_hard_negatives(query.text, relevant, 3)
    assert single == [small_dataset.memories[n.memory_id].text for n in everything[query.id]]
    other = HardNegativeMiner(encoder=minilm, settings=plain(sampling_strategy="random", seed=6))
    assert other.mine(small_dataset, query_ids, count=3) != everything


def test_model_with_nan_weights_is_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(resolve_checkpoint(DEFAULT_BASE_MODEL), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="returns NaN or infinite vectors; train or copy it again"):
        HardNegativeMiner(model=str(folder), device="cpu").mine(copies(), ["q1"], count=1)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -5}])
def test_invalid_top_k_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(AceFinetuneError, match="top_k"):
        HardNegativeMiner(**options)  # type: ignore[arg-type]


def test_negative_count_is_refused(miner: HardNegativeMiner) -> None:
    with pytest.raises(AceFinetuneError, match="number of negatives per query is -1"):
        miner.mine(copies(), ["q1"], count=-1)
    assert miner.mine(copies(), ["q1"], count=0) == {"q1": ()}


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        HardNegativeMiner(model=str(tmp_path / "none")).mine(copies(), ["q1"], count=1)


# ------------------------------------------------------------------------------------------------ single queries


@pytest.mark.parametrize("identifier", ["11", 11, 10])
def test_single_query_with_str_or_int_id(miner: HardNegativeMiner, identifier: str | int) -> None:
    data = copies()
    miner.use(data)
    texts = miner.mine_hard_negatives("do I restart the WORKER after a deploy?", identifier, num_negatives=5)
    # 20 is a positive of a query with the same text.
    assert sorted(texts) == sorted(data.memories[i].text for i in ("21", "22"))


def test_single_query_that_is_not_in_the_dataset(miner: HardNegativeMiner) -> None:
    data = copies()
    miner.use(data)
    texts = miner.mine_hard_negatives("upgrade the database", 20, num_negatives=2)
    assert len(texts) == 2
    assert data.memories["20"].text not in texts


def test_single_query_needs_a_dataset_and_a_known_memory(miner: HardNegativeMiner) -> None:
    with pytest.raises(AceFinetuneError, match=r"call use\(dataset\) first"):
        miner.mine_hard_negatives("x", 10)
    miner.use(copies())
    with pytest.raises(DatasetError, match="no memory '99'"):
        miner.mine_hard_negatives("x", 99)


# ------------------------------------------------------------------------------------------------ existing collection


class SameModel(LiveCollection):
    """A collection whose endpoint serves the encoder of the test."""

    encoder: Encoder

    def _embed(self, text: str) -> list[float]:
        return [float(value) for value in self.encoder.encode_queries([text])[0]]


def test_existing_collection_is_a_source(minilm: Encoder, cache: Path) -> None:
    data = copies()
    client = QdrantClient(":memory:")
    client.create_collection("m", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
    vectors = minilm.encode_documents([data.memories[i].text for i in ("21", "22")])
    client.upsert(
        "m",
        [
            models.PointStruct(id=int(i), vector=vector.tolist(), payload={"content": data.memories[i].text})
            for i, vector in zip(("21", "22"), np.asarray(vectors), strict=True)
        ],
    )
    collection = SameModel("http://db", "m", embedding_url="http://here", client=client)
    collection.encoder = minilm
    with HardNegativeMiner(encoder=minilm, cache=cache, settings=plain()) as miner:
        miner.collection = collection
        found = miner.mine(data, ["q1"], count=3)
    assert {negative.memory_id for negative in found["q1"]} == {"21", "22"}
    assert [(negative.source, negative.rank) for negative in found["q1"]] == [("collection", 1), ("collection", 2)]
