from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from mining_options import plain
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator, generate_training_data
from llama_index_ace_finetune.stores.qdrant.live_collection import LiveCollection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture
def miner(minilm: Encoder, cache: Path) -> HardNegativeMiner:
    return HardNegativeMiner(encoder=minilm, cache=cache, settings=plain())


def test_file_has_the_fields_of_the_original_and_ours(
    miner: HardNegativeMiner, small_suite: Path, small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "training_data.json"
    written = TrainingDataGenerator(small_suite, path, miner).generate_and_save(negatives_per_example=3)
    document = json.loads(path.read_text(encoding="utf-8"))
    split = split_dataset(small_dataset)
    assert set(document) == {"metadata", "examples", "memories", "memory_metadata", "split"}
    assert document["metadata"]["total_examples"] == written == len(document["examples"])
    assert document["metadata"]["source"] == str(small_suite)
    assert document["metadata"]["mining"]["kept"] == miner.report["kept"]
    changed = datetime.fromtimestamp(int(small_suite.stat().st_mtime), timezone.utc)
    assert datetime.fromisoformat(document["metadata"]["generated_at"]) == changed
    assert not {"histograms", "samples"} & set(document["metadata"]["mining"])
    assert Counter(row["split"] for row in document["examples"]) == {"train": len(split.train), "dev": len(split.dev)}
    assert document["split"] == split.manifest()
    assert document["memories"] == {i: memory.text for i, memory in small_dataset.answers.items()}
    for row in document["examples"]:
        assert {"query", "positive", "negatives", "metadata"} <= set(row)
        assert set(row["metadata"]) == {"memory_id", "category", "difficulty", "query_category"}
        query = small_dataset.queries[row["query_id"]]
        memory = small_dataset.memories[row["positive_ids"][0]]
        assert row["query"] == query.text
        assert row["positive"] == memory.text
        assert row["metadata"] == {
            "memory_id": int(memory.id),
            "category": memory.metadata["category"],
            "difficulty": query.metadata["difficulty"],
            "query_category": query.metadata["query_category"],
        }
        assert row["negatives"] == [small_dataset.memories[i].text for i in row["negative_ids"]]
        assert len(row["negatives"]) == 3
        assert row["positive"] not in row["negatives"]
        assert len(row["negative_scores"]) == len(row["negative_sources"]) == len(row["negative_ranks"]) == 3


def test_held_out_positives_and_queries_are_not_used(miner: HardNegativeMiner, small_dataset: RetrievalDataset) -> None:
    split = split_dataset(small_dataset)
    data = generate_training_data(small_dataset, split, miner, num_negatives=12)
    held_out = {*split.answers["dev"], *split.answers["test"]}
    assert held_out
    assert not held_out & {i for example in data.examples for i in example.negative_ids}
    assert {example.query_id for example in data.examples} == {*split.train, *split.dev}
    assert data.metadata["mining"]["filtered"]["held-out answer"] > 0
    assert data.metadata["generated_at"] is None  # the dataset is not from a file
    for example in data.examples:
        assert set(example.positive_ids) == small_dataset.relevant(example.query_id)


def test_metadata_without_a_json_form_is_left_out(
    miner: HardNegativeMiner, small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    memories = {
        i: replace(memory, metadata={**memory.metadata, "category": math.nan, "severity": 2})
        for i, memory in small_dataset.memories.items()
    }
    dataset = replace(small_dataset, memories=memories)
    data = generate_training_data(dataset, split_dataset(dataset), miner, num_negatives=1)
    data.save(tmp_path / "training_data.json")
    assert {example.metadata["category"] for example in data.examples} == {None}
    assert all("category" not in metadata and metadata["severity"] == 2 for metadata in data.memory_metadata.values())


@pytest.mark.parametrize(
    ("floor", "kept"), [("easy", {"easy", "medium", "hard"}), ("medium", {"medium", "hard"}), ("hard", {"hard"})]
)
def test_min_difficulty_skips_easier_queries(
    miner: HardNegativeMiner, small_dataset: RetrievalDataset, floor: str, kept: set[str]
) -> None:
    split = split_dataset(small_dataset)
    data = generate_training_data(small_dataset, split, miner, num_negatives=1, min_difficulty=floor)
    assert [example.query_id for example in data.examples] == [
        query_id
        for query_id, query in small_dataset.queries.items()
        if query_id in {*split.train, *split.dev} and query.metadata["difficulty"] in kept
    ]


def test_skip_categories_skips_queries(miner: HardNegativeMiner, small_dataset: RetrievalDataset) -> None:
    split = split_dataset(small_dataset)
    everything = generate_training_data(small_dataset, split, miner, num_negatives=1)
    fewer = generate_training_data(
        small_dataset, split, miner, num_negatives=1, skip_categories=frozenset({"vague", "keywords"})
    )
    skipped = [e for e in everything.examples if e.metadata["query_category"] in {"vague", "keywords"}]
    assert skipped
    assert len(fewer.examples) == len(everything.examples) - len(skipped)
    # The category of a memory is not the category of a query.
    category = str(everything.examples[0].metadata["category"])
    same = generate_training_data(small_dataset, split, miner, num_negatives=1, skip_categories=frozenset({category}))
    assert len(same.examples) == len(everything.examples)


def test_max_examples_is_a_reproducible_random_sample(
    miner: HardNegativeMiner, small_dataset: RetrievalDataset
) -> None:
    split = split_dataset(small_dataset)
    draws = [
        generate_training_data(small_dataset, split, miner, num_negatives=1, max_examples=20).examples for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert len(draws[0]) == 20
    assert len({example.positive_ids for example in draws[0]}) > 4
    few = generate_training_data(small_dataset, split, miner, num_negatives=1, max_examples=5).examples
    assert {example.split for example in few} == {"train", "dev"}
    many = generate_training_data(small_dataset, split, miner, num_negatives=1, max_examples=10_000)
    assert len(many.examples) == len(split.train) + len(split.dev)


def test_filters_that_match_no_query_are_refused(miner: HardNegativeMiner, small_dataset: RetrievalDataset) -> None:
    categories = {str(query.metadata["query_category"]) for query in small_dataset.queries.values()}
    with pytest.raises(DatasetError, match=r"no training query matches the filters .*keywords"):
        generate_training_data(
            small_dataset, split_dataset(small_dataset), miner, skip_categories=frozenset(categories)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_difficulty": "Hard"}, "minimum difficulty is 'Hard'; it must be easy, medium, hard"),
        ({"max_examples": 0}, "maximum number of examples is 0"),
        ({"max_examples": -3}, "maximum number of examples is -3"),
        ({"num_negatives": -1}, "number of negatives per query is -1"),
    ],
)
def test_invalid_options_are_refused(
    miner: HardNegativeMiner, small_dataset: RetrievalDataset, options: dict[str, object], message: str
) -> None:
    with pytest.raises(AceFinetuneError, match=message):
        generate_training_data(small_dataset, split_dataset(small_dataset), miner, **options)  # type: ignore[arg-type]


def test_output_that_is_a_directory_is_refused_before_mining(
    miner: HardNegativeMiner, small_suite: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="is a directory; give the path of a file"):
        TrainingDataGenerator(small_suite, tmp_path, miner).generate_and_save()
    assert miner.report == {}


def test_missing_suite_is_refused(miner: HardNegativeMiner, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        TrainingDataGenerator(tmp_path / "none.json", tmp_path / "out.json", miner).generate_and_save()
    assert not (tmp_path / "out.json").exists()


def test_miner_can_mine_single_queries_afterwards(
    miner: HardNegativeMiner, small_suite: Path, small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    TrainingDataGenerator(small_suite, path, miner, max_examples=30).generate_training_data(1)
    assert len(TrainingData.load(path).examples) == 30
    memory = next(iter(small_dataset.memories))
    assert len(miner.mine_hard_negatives("how do I do that?", int(memory), 3)) == 3


def test_memories_of_the_collection_are_added_to_the_corpus(
    miner: HardNegativeMiner, small_suite: Path, small_dataset: RetrievalDataset, tmp_path: Path
) -> None:
    known = next(iter(small_dataset.memories))
    client = QdrantClient(":memory:")
    client.create_collection("m", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert(
        "m",
        [
            models.PointStruct(id=int(known), vector=[1.0], payload={"content": "another text for a known id"}),
            models.PointStruct(id=7, vector=[1.0], payload={"content": "a memory that the suite does not have"}),
        ],
    )
    miner.collection = LiveCollection("http://db", "m", client=client)
    path = tmp_path / "out.json"
    TrainingDataGenerator(small_suite, path, miner).generate_and_save(2)
    memories = TrainingData.load(path).memories
    assert memories["7"] == "a memory that the suite does not have"
    assert memories[known] == small_dataset.memories[known].text
    assert len(memories) == len(small_dataset.answers) + 1
