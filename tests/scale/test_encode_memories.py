"""Encoding in shards: equal to encoding at once, resumed, and damaged or foreign shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, OutputExistsError, StoreError
from llama_index_ace_finetune.pipeline.encode import encode
from llama_index_ace_finetune.pipeline.index import index
from llama_index_ace_finetune.scale import encode_memories as driver
from llama_index_ace_finetune.scale.encode_memories import EncodedMemories
from llama_index_ace_finetune.scale.encode_shard import encode_shard
from llama_index_ace_finetune.scale.engine import EngineSettings
from llama_index_ace_finetune.scale.memory_files import divide_rows, read_memories
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.use_shards import with_shards
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import point_id
from tests.encoders.tiny_model import CPU, tiny_model

TEXTS = [f"lesson {n}: " + "retry the upload after a timeout " * (1 + n % 3) for n in range(23)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder.load(model, settings=CPU)


def write_memories(folder: Path) -> Path:
    """Write two files, with 15 and 8 rows in row groups of 4."""
    folder.mkdir()
    for name, first, last in (("a", 0, 15), ("b", 15, 23)):
        columns = {
            "id": [f"m{n:02}" for n in range(first, last)],
            "content": TEXTS[first:last],
            "topic": [None if n % 2 else "uploads" for n in range(first, last)],
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=4)
    return folder


@pytest.fixture
def memories(tmp_path: Path) -> Path:
    return write_memories(tmp_path / "memories")


@pytest.fixture(scope="module")
def encoded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    encode_to(folder / "vectors", write_memories(folder / "memories"), model)
    return folder / "vectors"


@pytest.fixture
def shards(encoded: Path, tmp_path: Path) -> Path:
    """A copy of the shards of `memories`."""
    return Path(shutil.copytree(encoded, tmp_path / "vectors"))


def encode_to(out: Path, memories: Path, model: Path, **options: object) -> EncodedMemories:
    return encode(memories, out, model=model, device="cpu", precision="float32", shard_rows=6, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


class TestResult:
    def test_vectors_ids_and_metadata_are_those_of_one_process(self, shards: Path, encoder: Encoder) -> None:
        folder = ShardFolder.open(shards)
        read = [folder.read(number) for number in range(len(folder))]
        # 15 rows in shards of 6, 6 and 3, then 8 in 6 and 2.
        assert [len(shard.memories) for shard in read] == [6, 6, 3, 6, 2]
        assert [memory.id for memory in folder.memories()] == [f"m{n:02}" for n in range(23)]
        assert read[0].memories[0].metadata == {"topic": "uploads"}
        assert read[0].memories[1].metadata == {}
        at_once = encoder.encode_documents(TEXTS)
        np.testing.assert_allclose(np.concatenate([shard.vectors for shard in read]), at_once, atol=1e-6)

    def test_on_one_thread_the_vectors_do_not_depend_on_the_division(self, encoder: Encoder) -> None:
        memories = [Memory(str(n), text, {}) for n, text in enumerate(TEXTS)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            at_once = encode_shard(memories, encoder).vectors
            for rows in (1, 6, 15):
                parts = [encode_shard(memories[first : first + rows], encoder) for first in range(0, 23, rows)]
                assert np.concatenate([part.vectors for part in parts]).tobytes() == at_once.tobytes()
        finally:
            torch.set_num_threads(threads)

    def test_other_formats_are_encoded_too(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "list.json").write_text(
            json.dumps([{"id": 7, "text": "one", "topic": "a"}, {"id": 8, "text": "two"}])
        )
        for kept in (0, 1):
            made = encode_to(tmp_path / "out", tmp_path / "list.json", model)
            assert (made.memories, made.shards, made.kept) == (2, 1, kept)
        first = next(ShardFolder.open(tmp_path / "out").memories())
        assert (first.id, first.text, first.metadata) == ("7", "one", {"topic": "a", "source_id": 7})

    def test_rows_without_id_or_text_are_left_out_and_counted(self, model: Path, tmp_path: Path) -> None:
        table = pa.table({"id": ["a", "b", None, "a"], "text": ["one", " ", "three", "one"]})
        pq.write_table(table, tmp_path / "in.parquet")
        made = encode_to(tmp_path / "out", tmp_path / "in.parquet", model)
        assert (made.memories, made.left_out) == (1, 3)
        assert [memory.id for memory in ShardFolder.open(tmp_path / "out").memories()] == ["a"]

    def test_columns_can_be_named(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"key": [5], "note": ["a note"], "vector": [[1.0]]}), tmp_path / "in.parquet")
        (part,) = divide_rows([tmp_path / "in.parquet"])
        found, _ = read_memories(tmp_path, part, ColumnChoice.of("answer_id=key,text=note"))
        assert [(memory.id, memory.text, memory.metadata) for memory in found] == [("5", "a note", {"source_id": 5})]
        with pytest.raises(DatasetError, match=r"no column of ids; the columns are key, note, vector"):
            read_memories(tmp_path, part, ColumnChoice())


class TestResume:
    def test_a_killed_call_is_resumed_without_losing_or_doubling_a_row(
        self, memories: Path, model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, run_shards, encoded = contents(shards), driver.run_shards, []

        def killed(*arguments: object, **options: object) -> object:
            for number, header in enumerate(run_shards(*arguments, **options)):  # type: ignore[arg-type]
                encoded.append(header.number)
                if number == 1:
                    raise KeyboardInterrupt
                yield header

        with monkeypatch.context() as patch:
            patch.setattr(driver, "run_shards", killed)
            with pytest.raises(KeyboardInterrupt):
                encode_to(tmp_path / "out", memories, model)
        assert len(contents(tmp_path / "out")) == 2
        with pytest.raises(StoreError, match="3 of 5 shards are missing"):
            ShardFolder.open(tmp_path / "out")
        assert encode_to(tmp_path / "out", memories, model).kept == 2
        assert contents(tmp_path / "out") == whole

    @pytest.mark.parametrize("cut", [0, 700], ids=["empty", "truncated"])
    def test_a_damaged_shard_is_refused_and_encoded_again(
        self, memories: Path, model: Path, shards: Path, cut: int
    ) -> None:
        whole, file = contents(shards), shards / "shard-00001.parquet"
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(StoreError, match=r"shard-00001.parquet' is damaged .*run `ace-finetune encode` again"):
            ShardFolder.open(shards)
        assert encode_to(shards, memories, model).kept == 4
        assert contents(shards) == whole

    def test_changed_bytes_are_detected(self, shards: Path) -> None:
        file = shards / "shard-00001.parquet"
        content = bytearray(file.read_bytes())
        vectors = content.index(ShardFolder.open(shards).read(1).vectors[3].tobytes())
        content[vectors + 1] ^= 1
        file.write_bytes(content)
        with pytest.raises(StoreError, match=r"shard-00001.parquet' is damaged"):
            ShardFolder.open(shards).read(1)


class TestForeignShards:
    def test_another_model_is_refused(self, memories: Path, model: Path, shards: Path, tmp_path: Path) -> None:
        other = tiny_model(tmp_path / "other", seed=1)
        with pytest.raises(StoreError, match=r"are of another model \(.*tiny.* fingerprint .*give another folder"):
            encode_to(shards, memories, other)
        encode_to(tmp_path / "theirs", memories, other)
        shutil.copy(tmp_path / "theirs" / "shard-00002.parquet", shards)
        with pytest.raises(StoreError, match=r"shard-00002.parquet' is of another model .*delete it"):
            ShardFolder.open(shards)
        with pytest.raises(StoreError, match=r"shard-00002.parquet' is of another model .*delete it"):
            encode_to(shards, memories, model)

    def test_a_shard_twice_is_refused(self, memories: Path, model: Path, shards: Path) -> None:
        shutil.copy(shards / "shard-00001.parquet", shards / "shard-00001 (copy).parquet")
        with pytest.raises(StoreError, match=r"\(copy\).parquet' is not in the list of shards; remove it"):
            ShardFolder.open(shards)
        (shards / "shard-00001 (copy).parquet").rename(shards / "shard-00003.parquet")
        with pytest.raises(StoreError, match=r"shard-00003.parquet' holds the memories of shard 1"):
            ShardFolder.open(shards)

    def test_other_memories_are_refused(self, memories: Path, model: Path, shards: Path) -> None:
        pq.write_table(pa.table({"id": ["z"], "content": ["z"]}), memories / "c.parquet")
        with pytest.raises(StoreError, match=r"are of other memories, or of another shard size"):
            encode_to(shards, memories, model)

    def test_a_file_that_changes_meanwhile_is_refused(self, memories: Path) -> None:
        (part, *_) = divide_rows([memories / "b.parquet"], rows=6)
        pq.write_table(pa.table({"id": ["z"] * 8, "content": ["z"] * 8}), memories / "b.parquet")
        with pytest.raises(DatasetError, match="was changed"):
            read_memories(memories, part, ColumnChoice())

    def test_a_folder_with_something_else_is_refused(self, memories: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        with pytest.raises(OutputExistsError, match="holds something other than shards"):
            encode_to(tmp_path / "out", memories, model)
        with pytest.raises(StoreError, match=r"There are no shards in .*shards.json is missing"):
            ShardFolder.open(tmp_path / "out")

    @pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}', '{"format": "ace-finetune-shards-1"}'])
    def test_a_damaged_list_is_refused(self, shards: Path, text: str) -> None:
        (shards / "shards.json").write_text(text)
        with pytest.raises(StoreError, match=r"shards.json' (is corrupt|has the format)"):
            ShardFolder.open(shards)

    def test_a_parquet_file_of_another_program_is_refused(self, memories: Path, shards: Path) -> None:
        shutil.copy(memories / "a.parquet", shards / "shard-00000.parquet")
        with pytest.raises(StoreError, match=r"is not a shard that `ace-finetune encode` wrote"):
            ShardFolder.open(shards)


class TestShardEncoder:
    def test_only_unknown_texts_are_encoded(
        self, shards: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (wrapped,) = with_shards([encoder], [ShardFolder.open(shards)])
        assert isinstance(wrapped, ShardEncoder)
        # The second is equal to a stored text only after normalisation, so it has another vector.
        texts = [TEXTS[20], TEXTS[3].upper(), "not stored", TEXTS[0], TEXTS[20]]
        expected, encoded = encoder.encode_documents(texts), []
        forward = Encoder._forward

        def recorded(self: Encoder, chunk: list[str], role: object, **options: bool) -> object:
            encoded.extend(chunk)
            return forward(self, chunk, role, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Encoder, "_forward", recorded)
        counted: list[int] = []
        np.testing.assert_allclose(wrapped.encode_documents(texts, progress=counted.append), expected, atol=1e-6)
        assert sorted(encoded) == sorted(texts[1:3])
        assert sum(counted) == 5
        assert wrapped.holds([TEXTS[5], "not stored"]).tolist() == [True, False]

    def test_shards_of_another_model_are_refused(self, shards: Path, tmp_path: Path) -> None:
        other = Encoder.load(tiny_model(tmp_path / "other", seed=1), settings=CPU)
        with pytest.raises(StoreError, match=r"are of another model \(.*encode the memories with"):
            with_shards([other], [ShardFolder.open(shards)])


class TestEngine:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "spark"}, "must be local or ray"),
            ({"ray_address": "auto"}, "without Ray"),
            ({"engine": "ray", "workers": 0}, "at least 1"),
        ],
    )
    def test_invalid_settings(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(AceFinetuneError, match=message):
            EngineSettings(**options)  # type: ignore[arg-type]


def test_index_takes_memories_and_vectors_from_shards(
    model: Path, memories: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "pairs.jsonl"
    suite.write_text(
        '{"query": "what first", "answer_id": "m00", "text": "' + TEXTS[0].strip() + '"}\n', encoding="utf-8"
    )
    encoded: list[str] = []
    forward = Encoder._forward

    def recorded(self: Encoder, chunk: list[str], role: object, **options: bool) -> object:
        encoded.extend(chunk)
        return forward(self, chunk, role, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "_forward", recorded)
    monkeypatch.setattr("llama_index_ace_finetune.pipeline.index.DEFAULT_BASE_MODEL", str(model))
    made = index(suite, model, tmp_path / "index", shards=[shards], device="cpu", precision="float32")
    assert made.memories == 23
    # The text of the suite is another one: it ends without a space.
    assert set(encoded) == {TEXTS[0].strip()}
    with MemoryStore.open(path=tmp_path / "index") as store:
        (point,) = store.client.retrieve(store.collection, [point_id("m07")], with_vectors=True)
        stored = np.array(point.vector["finetuned"], np.float32)  # type: ignore[index, call-overload]
        np.testing.assert_allclose(stored, ShardFolder.open(shards).read(1).vectors[1], atol=1e-6)
        assert point.payload is not None
        assert store.get(["m08"])["m08"].metadata["topic"] == "uploads"
