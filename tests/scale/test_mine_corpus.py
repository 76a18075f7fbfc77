"""Mining over shards: the same hard negatives as with all memories in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.pipeline.encode import encode
from llama_index_ace_finetune.pipeline.generate import generate
from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.scale.mine_corpus import mine_corpus
from llama_index_ace_finetune.scale.mine_shard import merge_hits
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.use_shards import shard_memories
from tests.encoders.tiny_model import CPU, tiny_model

WORDS = [
    *("queue", "worker", "deploy", "restart", "upload", "timeout", "cache", "index", "query", "vector", "memory"),
    *("agent", "disk", "token", "retry"),
]
SETTINGS = MiningSettings(range_max=6, near_duplicate=1.0, relative_margin=None, sampling_strategy="top")


def corpus(count: int) -> dict[str, Memory]:
    """Short texts of few words, so that BM25 ties are frequent; every tenth is a copy of the one before."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]
    for row in range(10, count, 10):
        texts[row] = texts[row - 1].upper()
    return {f"m{row:03}": Memory(f"m{row:03}", text) for row, text in enumerate(texts)}


def small_part(memories: dict[str, Memory], queries: int) -> RetrievalDataset:
    """Queries of two words each with one positive, and only these positives."""
    positives = list(memories)[3 :: len(memories) // queries][:queries]
    return RetrievalDataset(
        name="part",
        memories={name: memories[name] for name in positives},
        queries={f"q{n}": Query(f"q{n}", f"{WORDS[n % 15]} {WORDS[(3 * n + 1) % 15]}") for n in range(queries)},
        judgements={f"q{n}": {name: 1.0} for n, name in enumerate(positives)},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def shards_of(memories: dict[str, Memory], model: Path, folder: Path) -> list[ShardFolder]:
    columns = {"id": list(memories), "text": [memory.text for memory in memories.values()]}
    pq.write_table(pa.table(columns), folder / "memories.parquet")
    encode(
        folder / "memories.parquet", folder / "vectors", model=model, shard_rows=17, device="cpu", precision="float32"
    )
    return [ShardFolder.open(folder / "vectors")]


def test_negatives_are_those_of_one_process(model: Path, tmp_path: Path) -> None:
    memories = corpus(120)
    part = small_part(memories, 12)
    encoder = Encoder.load(model, settings=CPU)
    folders = shards_of(memories, model, tmp_path)
    whole = RetrievalDataset("part", memories, part.queries, part.judgements)
    expected = HardNegativeMiner(encoder=encoder, settings=SETTINGS).mine(whole, list(part.queries), count=4)

    sharded = ShardEncoder(encoder, folders)
    found = mine_corpus(part, sharded, folders, settings=SETTINGS)
    assert len(part.memories) < len(found.dataset.memories) < len(memories)
    miner = HardNegativeMiner(encoder=sharded, settings=SETTINGS, statistics=found.statistics)
    mined = miner.mine(found.dataset, list(part.queries), count=4)
    assert {name: [replace(one, score=None) for one in mined[name]] for name in mined} == {
        name: [replace(one, score=None) for one in expected[name]] for name in expected
    }
    # The last digit of a cosine depends on the number of rows in a product.
    for name, negatives in expected.items():
        assert [one.score for one in mined[name]] == pytest.approx([one.score for one in negatives], abs=3e-6)
    assert {negative.source for negatives in expected.values() for negative in negatives} == {"dense", "bm25"}


def test_memories_that_only_the_dataset_has_count_too(model: Path, tmp_path: Path) -> None:
    memories = corpus(60)
    part = small_part(memories, 6)
    encoder = Encoder.load(model, settings=CPU)
    inside = {name: memory for name, memory in memories.items() if name not in part.memories}
    folders = shards_of(inside, model, tmp_path)
    sharded = ShardEncoder(encoder, folders)
    found = mine_corpus(part, sharded, folders, settings=SETTINGS)
    distinct = len(RetrievalDataset("all", memories, {}, {}).answers)
    assert found.statistics is not None
    assert found.statistics.documents == distinct
    assert mine_corpus(part, sharded, folders, settings=MiningSettings(bm25=False)).statistics is None


def test_an_id_with_another_text_counts_once_with_a_warning(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"id": ["one", "two", "one"], "text": ["restart the worker", "upload to disk", "query the cache"]}
    pq.write_table(pa.table(columns), tmp_path / "memories.parquet")
    encode(tmp_path / "memories.parquet", tmp_path / "vectors", model=model, shard_rows=2, device="cpu")
    folders = [ShardFolder.open(tmp_path / "vectors")]
    assert [(memory.id, memory.text) for memory in shard_memories(folders)] == [
        ("one", "restart the worker"),
        ("two", "upload to disk"),
    ]
    assert "1 memories of the shards have the id of an earlier one with another text, such as 'one'" in caplog.text
    part = RetrievalDataset(
        "part", {"two": Memory("two", "upload to disk")}, {"q": Query("q", "restart")}, {"q": {"two": 1.0}}
    )
    encoder = ShardEncoder(Encoder.load(model, settings=CPU), folders)
    mined = mine_corpus(part, encoder, folders, settings=MiningSettings(range_max=5))
    assert {name: memory.text for name, memory in mined.dataset.memories.items()} == {
        "one": "restart the worker",
        "two": "upload to disk",
    }


def test_generate_reads_shards(model: Path, tmp_path: Path) -> None:
    memories = corpus(120)
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(
            json.dumps({"query": f"{WORDS[n % 15]} {WORDS[n // 15]} case {n}", "answer_id": m.id, "text": m.text})
            for n, m in enumerate(list(memories.values())[1::3])
        ),
        encoding="utf-8",
    )
    shards_of(memories, model, tmp_path)
    options = {
        "base_model": str(model),
        "device": "cpu",
        "mining": SETTINGS,
        "num_negatives": 3,
        "precision": "float32",
    }
    (tmp_path / "all.json").write_text(
        json.dumps([{"id": m.id, "text": m.text} for m in memories.values()]), encoding="utf-8"
    )
    generate(tmp_path / "pairs.jsonl", tmp_path / "one.json", memories=tmp_path / "all.json", **options)  # type: ignore[arg-type]
    generate(tmp_path / "pairs.jsonl", tmp_path / "two.json", shards=[tmp_path / "vectors"], **options)  # type: ignore[arg-type]
    one, two = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("one.json", "two.json"))
    assert one["examples"] == two["examples"]
    other = tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match="are of another model"):
        generate(
            tmp_path / "pairs.jsonl", tmp_path / "three.json", base_model=str(other), shards=[tmp_path / "vectors"]
        )
    assert not (tmp_path / "three.json").exists()


class TestMerge:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 5), st.data())
    def test_top_k_of_parts_in_any_order_is_that_of_the_whole(
        self, scores: list[int], depth: int, data: st.DataObject
    ) -> None:
        values = np.array(scores, np.float32)
        expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:depth]
        cut = data.draw(st.integers(0, len(scores)))
        parts = []
        for rows in (np.arange(cut), np.arange(cut, len(scores))):
            best = rows[np.argsort(-values[rows], kind="stable")][:depth]
            padding = depth - len(best)
            parts.append((np.append(best, [-1] * padding)[None], np.append(values[best], [-np.inf] * padding)[None]))
        for one, other in (parts, parts[::-1]):
            rows, found = merge_hits(one, other, depth)
            assert rows[0, : len(expected)].tolist() == expected
            assert (rows[0, len(expected) :] == -1).all()
            assert found[0, : len(expected)].tolist() == values[expected].tolist()


class TestStatistics:
    TEXTS = ("restart the worker", "the worker restarts the queue", "drain the queue", "a cache", "")

    def test_sums_of_parts(self) -> None:
        terms = {"worker", "queue", "absent"}
        whole = CorpusStatistics.of(self.TEXTS, terms)
        # Without stop words: 2 + 3 + 2 + 1 + 0 terms.
        assert (whole.documents, whole.length, whole.frequencies) == (5, 8, {"worker": 2, "queue": 2})
        assert CorpusStatistics.of(self.TEXTS[:2], terms) + CorpusStatistics.of(self.TEXTS[2:], terms) == whole
        assert CorpusStatistics.of([], terms).mean_length == 0.0

    @pytest.mark.parametrize("variant", ["plus", "l"])
    def test_a_part_scores_as_in_the_whole(self, variant: str) -> None:
        settings = BM25Settings(variant=variant)  # type: ignore[arg-type]
        whole = BM25Index.build(self.TEXTS, settings=settings)
        statistics = CorpusStatistics.of(self.TEXTS, {"queue", "worker"})
        part = BM25Index.build(self.TEXTS[2:], settings=settings, statistics=statistics)
        assert part.scores("worker queue").tolist() == whole.scores("worker queue")[2:].tolist()

    def test_okapi_is_refused(self) -> None:
        with pytest.raises(AceFinetuneError, match="okapi needs the whole corpus"):
            BM25Index.build(
                ["one"], settings=BM25Settings(variant="okapi"), statistics=CorpusStatistics.of(["one"], ["one"])
            )
