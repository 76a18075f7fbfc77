from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError, StoreError
from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings
from llama_index_ace_finetune.utils.ownership import MARK

TEXTS = ["Die Häuser sind voll", "disk full on get_user", "猫が好き", ""]
FILES = sorted(
    ["index.json", "vocabulary.json"]
    + [f"{name}.npy" for name in ("starts", "rows", "counts", "lengths", "present", "idf", "weights")]
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    BM25Index.build(TEXTS).save(tmp_path / "index")
    return tmp_path / "index"


@settings(max_examples=30)
@given(
    texts=st.lists(st.text(max_size=20), max_size=8),
    query=st.text(max_size=20),
    variant=st.sampled_from(["okapi", "plus", "l"]),
    removed=st.booleans(),
)
def test_loaded_index_equals_the_saved_one(texts: list[str], query: str, variant, removed: bool) -> None:
    index = BM25Index.build(texts, settings=BM25Settings(variant))
    if removed and texts:
        index.remove([0])
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        loaded = BM25Index.load(Path(folder) / "index")
        for text in [query, *texts]:
            assert loaded.scores(text).tolist() == index.scores(text).tolist()
            for ours, theirs in zip(index.search(text, 5), loaded.search(text, 5), strict=True):
                assert ours.tolist() == theirs.tolist()
        assert loaded.add(["neu"]).tolist() == index.add(["neu"]).tolist()
        assert loaded.search("neu", 5)[0].tolist() == index.search("neu", 5)[0].tolist()
        assert len(loaded) == len(index)


def test_settings_of_index_and_tokenizer_are_loaded(tmp_path: Path) -> None:
    tokenizer = TokenizerSettings(language="german", stop_words=("die", "sind"), token_pattern=r"\w+", min_length=2)
    chosen = BM25Settings("okapi", k1=1.2, b=0.5, epsilon=0.1)
    BM25Index.build(TEXTS, settings=chosen, tokenizer=Tokenizer(tokenizer)).save(tmp_path / "index")
    loaded = BM25Index.load(tmp_path / "index")
    assert loaded.settings == chosen
    assert loaded.tokenizer.settings == tokenizer
    assert loaded.search("Haus", 5)[0].tolist() == [0]
    assert loaded.search("die", 5)[0].tolist() == []


def test_saving_is_deterministic_and_without_pickle(tmp_path: Path) -> None:
    for name in ("a", "b"):
        BM25Index.build(TEXTS).save(tmp_path / name / "index")
    assert sorted(path.name for path in (tmp_path / "a" / "index").iterdir()) == [MARK, *FILES]
    for name in (MARK, *FILES):
        assert (tmp_path / "a" / "index" / name).read_bytes() == (tmp_path / "b" / "index" / name).read_bytes()


def test_arrays_are_memory_mapped(saved: Path) -> None:
    weights = BM25Index.load(saved)._state.weights
    assert isinstance(weights.base, np.memmap)
    assert not weights.flags.writeable


def test_saving_over_the_loaded_index(saved: Path) -> None:
    index = BM25Index.load(saved)
    other = BM25Index.load(saved)
    index.add(["a new disk"])
    index.save(saved)
    assert sorted(BM25Index.load(saved).search("disk", 5)[0].tolist()) == [1, 4]
    assert other.search("disk", 5)[0].tolist() == [1]  # still reads the files it opened
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


def test_failed_save_keeps_the_old_index(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    index = BM25Index.build(["another text"])
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", fail)
        with pytest.raises(StoreError, match=r"cannot be written .*No space left"):
            index.save(saved)
    assert BM25Index.load(saved).search("disk", 5)[0].tolist() == [1]
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


def test_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="something other"):
        BM25Index.build(TEXTS).save(tmp_path)
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        BM25Index.build(TEXTS).save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_save_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    BM25Index.build(TEXTS).save(tmp_path / "empty")
    assert len(BM25Index.load(tmp_path / "empty")) == 4


def test_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no BM25 index at .*build it"):
        BM25Index.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.json"])
def test_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}' does not exist; build the BM25 index again"):
        BM25Index.load(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped"])
def test_damaged_file_is_named(saved: Path, name: str, damage: str) -> None:
    path = saved / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-3] ^= 0x40
    path.write_bytes({"cut": content[:-5], "emptied": b"", "flipped": content}[damage])
    with pytest.raises(StoreError, match=rf"{name}' is (corrupt|damaged) .*; build the BM25 index again"):
        BM25Index.load(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "bm25-index-9"}, "has format 'bm25-index-9'"),
        ({"settings": {"variant": "plus", "k9": 1}}, "(corrupt|damaged)"),
        ({"settings": {"variant": "bm11"}}, "(corrupt|damaged)"),
        ({"tokenizer": {"unknown": True}}, "(corrupt|damaged)"),
        ({"checksums": None}, "(corrupt|damaged)"),
    ],
)
def test_invalid_index_json_is_refused(saved: Path, change: dict, words: str) -> None:
    index = json.loads((saved / "index.json").read_text())
    (saved / "index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(StoreError, match=rf"index\.json'? .*{words}"):
        BM25Index.load(saved)


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AceFinetuneError, match=r"cannot be written: .* is not a folder"):
        BM25Index.build(TEXTS).save(tmp_path / "file" / "index")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda rows: rows + np.int32(1000)),
        ("rows", lambda rows: rows - np.int32(1000)),
        ("rows", lambda rows: rows.astype(np.int64)),
        ("rows", lambda rows: rows[:-1]),
        ("starts", lambda starts: starts[::-1].copy()),
        ("starts", lambda starts: starts[:-1]),
        ("counts", lambda counts: counts[:, None]),
        ("lengths", lambda lengths: lengths[:-1]),
        ("idf", lambda idf: idf[:-1]),
    ],
)
def test_inconsistent_arrays_are_refused(saved: Path, name: str, change: Callable) -> None:
    """Inconsistent arrays can have valid checksums."""
    array = change(np.load(saved / f"{name}.npy"))
    np.save(saved / f"{name}.npy", array)
    index = json.loads((saved / "index.json").read_text())
    index["checksums"][f"{name}.npy"] = zlib.crc32(np.ascontiguousarray(array).data)
    (saved / "index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"(corrupt|damaged) .*; build the BM25 index again"):
        BM25Index.load(saved)
