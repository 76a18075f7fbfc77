"""Token stores in memory and in folders: the latest version of each memory, whatever was killed or damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import OutputExistsError, StoreError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_pooling import merge_repeated, pool_tokens
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.ragged import offsets_of

DIMENSION = 6
SETTINGS = TokenSettings(bits=8, pooling=1)


def vectors_of(texts: list[str]) -> TokenVectors:
    """One vector per character, and none of an empty text."""
    rows = [np.random.default_rng(ord(sign)).normal(size=DIMENSION) for text in texts for sign in text]
    vectors = np.array(rows, np.float32).reshape(-1, DIMENSION)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors, offsets_of(np.array([len(text) for text in texts], np.int64)))


def new_store(texts: dict[str, str] | None = None, folder: Path | None = None) -> TokenStore:
    store = TokenStore(DIMENSION, "model", settings=SETTINGS)
    if folder is not None:
        store = store.save(folder)
    if texts:
        store.upsert(list(texts), vectors_of(list(texts.values())))
    return store


def scores(store: TokenStore, ids: list[str], query: str = "word") -> list[float]:
    tokens = store.tokens
    return max_sim(vectors_of([query])[0], tokens, tokens.rows(ids)).tolist()


def require_same(store: TokenStore, texts: dict[str, str]) -> None:
    assert sorted(store.tokens.ids) == sorted(texts)
    assert scores(store, sorted(texts)) == scores(new_store(texts), sorted(texts))


ids = st.sampled_from("abcdefgh")
writes = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.dictionaries(ids, st.text("xyz", max_size=4), min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.sets(ids, max_size=3)),
    ),
    max_size=14,
)


@given(writes)
@settings(max_examples=60)
def test_any_writes_leave_the_latest_versions(operations: list) -> None:
    store, expected = new_store(), {}
    for kind, content in operations:
        if kind == "upsert":
            store.upsert(list(content), vectors_of(list(content.values())))
            expected.update(content)
        else:
            store.delete(content)
            expected = {name: text for name, text in expected.items() if name not in content}
    require_same(store, expected)
    stored = sum(segment.tokens for segment in store.tokens.segments)
    assert stored <= 2 * sum(len(text) for text in expected.values())


def test_a_folder_keeps_what_was_written(tmp_path: Path) -> None:
    folder, expected = tmp_path / "tokens", {}
    store = new_store(folder=folder)
    reader = TokenStore.open(folder, fingerprint="model")
    for number in range(40):
        store.upsert([f"m{number % 23}"], vectors_of([f"text {number}"]))
        expected[f"m{number % 23}"] = f"text {number}"
        if number % 5 == 0:
            store.delete([f"m{number % 7}"])
            expected.pop(f"m{number % 7}", None)
    require_same(store, expected)
    require_same(TokenStore.open(folder), expected)
    assert len(store.tokens.segments) <= 8
    assert len(list((folder / "segments").iterdir())) == 4 * len(store.tokens.segments)
    assert len(reader) == 0
    assert reader.refresh()
    assert not reader.refresh()
    require_same(reader, expected)


def test_a_reader_keeps_its_state_while_segments_are_merged(tmp_path: Path) -> None:
    texts = {f"m{number}": f"memory {number}" for number in range(20)}
    writer = new_store(texts, tmp_path / "tokens")
    reader = TokenStore.open(tmp_path / "tokens")
    before = scores(reader, list(texts))
    for name in texts:
        writer.upsert([name], vectors_of(["other"]))
    assert scores(reader, list(texts)) == before
    reader.upsert(["new"], vectors_of(["by the reader"]))  # on top of what the writer wrote
    require_same(TokenStore.open(tmp_path / "tokens"), dict.fromkeys(texts, "other") | {"new": "by the reader"})


def test_memories_and_queries_without_tokens_get_the_lowest_score() -> None:
    store = new_store({"empty": "", "one": "w"})
    assert scores(store, ["empty", "one"], "w") == [-1.0, pytest.approx(1, abs=1e-3)]
    assert scores(store, ["empty", "one"], "") == [-1.0, -1.0]
    require_same(new_store({"empty": ""}), {"empty": ""})


def test_bytes_per_memory() -> None:
    # 4 tokens of 6 + 2 bytes, and one offset of 8 bytes; 3 of them for 4-bit codes
    assert new_store({"a": "four", "b": "word"}).bytes_per_memory == 4 * 8 + 8
    store = TokenStore(DIMENSION, "model", settings=TokenSettings(bits=4, pooling=1))
    store.upsert(["a"], vectors_of(["four"]))
    assert store.bytes_per_memory == 4 * 5 + 8


def with_token_ids(texts: list[str]) -> TokenVectors:
    tokens = vectors_of(texts)
    return TokenVectors(tokens.vectors, tokens.offsets, np.array([ord(sign) for text in texts for sign in text]))


def test_repeated_tokens_are_merged_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0.6, 0.8]], np.float32)
    tokens = TokenVectors(vectors, np.array([0, 3, 3, 4]), np.array([7, 5, 7, 7]))
    merged = merge_repeated(tokens)
    half = np.sqrt(0.5)
    # 7 comes first in the first text, and is another vector in the third; the second text is empty.
    assert np.allclose(merged.vectors, [[half, half], [0, 1], [0.6, 0.8]])
    assert merged.offsets.tolist() == [0, 2, 2, 3]
    assert merged.token_ids is not None
    assert merged.token_ids.tolist() == [7, 5, 7]


@given(st.lists(st.text("xyz", max_size=6), max_size=4))
def test_merged_are_the_distinct_tokens_in_their_order(texts: list[str]) -> None:
    # The vector of a character is always the same, so that merging leaves the set of vectors.
    found, expected = merge_repeated(with_token_ids(texts)), vectors_of(["".join(dict.fromkeys(t)) for t in texts])
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert np.allclose(found.vectors, expected.vectors, atol=1e-6)
    without_ids = vectors_of(texts)
    assert merge_repeated(without_ids) is without_ids


def test_a_store_merges_repeated_tokens_unless_an_earlier_version_wrote_it(tmp_path: Path) -> None:
    store = TokenStore(DIMENSION, "model", settings=TokenSettings(bits=8)).save(tmp_path / "tokens")
    store.upsert(["a"], with_token_ids(["otto"]))
    assert store.tokens.live_tokens == 2
    meta = tmp_path / "tokens" / "meta.json"
    content = json.loads(meta.read_text())
    assert content.pop("merge_repeated") is True
    meta.write_text(json.dumps(content))
    earlier = TokenStore.open(tmp_path / "tokens")
    earlier.upsert(["b"], with_token_ids(["otto"]))
    assert earlier.tokens.live_tokens == 2 + 4
    assert not TokenStore.open(tmp_path / "tokens").settings.merge_repeated


def test_pooling_is_that_of_sentence_transformers() -> None:
    import torch
    from sentence_transformers.multi_vector_encoder.modules.token_pooling import HierarchicalTokenPooling

    texts = ["", "a", "ab", "some words of a memory", "the quick brown fox jumps over the lazy dog"]
    rng = np.random.default_rng(0)
    lengths = np.array([len(text) for text in texts], np.int64)
    vectors = rng.normal(size=(lengths.sum(), 8)).astype(np.float32)
    tokens = TokenVectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), offsets_of(lengths))
    for factor in (1, 2, 3):
        pooled = pool_tokens(tokens, factor)
        for text in range(1, len(texts)):
            expected = HierarchicalTokenPooling(factor).pool_one(torch.from_numpy(tokens[text])).numpy()
            assert np.allclose(pooled[text], expected, atol=1e-6)
        assert len(pooled[0]) == 0


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        new_store({f"m{number}": f"memory {number}" for number in range(20)}, tmp_path / "tokens")
        return tmp_path / "tokens"

    def test_another_fingerprint(self, folder: Path) -> None:
        with pytest.raises(StoreError, match=r"made by another model or projection; build them again"):
            TokenStore.open(folder, fingerprint="other")

    def test_another_fingerprint_after_opening(self, folder: Path) -> None:
        store = TokenStore.open(folder)
        TokenStore(DIMENSION, "other", settings=SETTINGS).save(folder)
        with pytest.raises(StoreError, match="now of another model"):
            store.upsert(["m"], vectors_of(["x"]))
        assert len(TokenStore.open(folder)) == 0

    @pytest.mark.parametrize("part", ["codes.npy", "scales.npy", "offsets.npy", "ids.json"])
    @pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
    def test_damaged_files(self, folder: Path, part: str, damage: str) -> None:
        (file,) = (folder / "segments").glob(f"*.{part}")
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(content[:-3] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(
            StoreError, match=f"{part}.*(corrupt|damaged|does not exist).*build the token vectors again"
        ):
            TokenStore.open(folder)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"format_version": 2}, "has the format 2, not 1"),
            ({"dimension": 8}, "does not fit the other files"),
            ({"dimension": 0}, "out of range"),
            ({"bits": 4}, "does not fit the other files"),
            ({"bits": 16}, "is corrupt"),
            ({"segments": [{"name": "../x", "checksums": {}}]}, "no valid record"),
        ],
    )
    def test_meta_that_does_not_fit(self, folder: Path, change: dict, reason: str) -> None:
        file = folder / "meta.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(StoreError, match=reason):
            TokenStore.open(folder)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="There are no token vectors"):
            TokenStore.open(tmp_path / "none")

    def test_a_file_that_shrinks_while_it_is_mapped(self, folder: Path) -> None:
        store = TokenStore.open(folder)
        (file,) = (folder / "segments").glob("*.codes.npy")
        os.truncate(file, 100)
        with pytest.raises(StoreError, match="has been truncated since it was opened; build the token vectors again"):
            scores(store, ["m3"])

    def test_another_folder_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "mine.txt").write_text("mine")
        with pytest.raises(OutputExistsError, match="did not write"):
            new_store(folder=tmp_path / "notes")


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_token_store import TokenStore, vectors_of
store = TokenStore.open({folder!r})
for number in range(100_000):
    store.upsert(["counter", f"m{{number % 9}}"], vectors_of([str(number), str(number)]))
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_state_that_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    new_store({"counter": "0"}, folder)
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(folder))
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        readers = [TokenStore.open(folder) for _ in range(5)]  # while it writes
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        written = [int(line) for line in process.stdout.read().split()]
        process.wait()
        last = written[-1] if written else 0
        store = TokenStore.open(folder)
        states = [scores(new_store({"counter": str(number)}), ["counter"]) for number in (last, last + 1)]
        assert scores(store, ["counter"]) in states
        assert all("counter" in reader for reader in readers)
        store.upsert(["after"], vectors_of(["x"]))
        files = {file.name.split(".")[0] for file in (folder / "segments").iterdir()}
        assert files == {segment.name for segment in store.tokens.segments}


def test_default_bits_follow_the_dimension() -> None:
    assert [TokenStore(dimension, "model").settings.bits for dimension in (96, 255, 256, 384)] == [4, 4, 2, 2]
    assert TokenStore(96, "model", settings=TokenSettings(bits=8)).settings.bits == 8
    assert TokenStore(384, "model", settings=TokenSettings(dimension=None)).settings.bits == 4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: TokenSettings(bits=6), "in 6 bits; it must be 8, 4 or 2"),  # type: ignore[arg-type]
        (lambda: TokenSettings(pooling=0), "from 1 to 16"),
        (lambda: TokenSettings(dimension=0), "from 1 to 4096"),
    ],
)
def test_settings_out_of_range(make: Callable[[], TokenSettings], reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        make()
