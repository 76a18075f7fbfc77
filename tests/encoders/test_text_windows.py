"""Windows of texts that a model truncates: what they cover, where they begin, and how they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.short_model import LIMIT, short_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_model import export, opened, tiny_model

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder, WindowSettings
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.utils.text_key import text_key

CPU = EncoderSettings(device="cpu")
SENTENCES = [f"Item {n} is {word}." for n, word in enumerate(["fire", "water", "earth", "air"] * 6)]
LONG = " ".join(SENTENCES)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(short_model(tmp_path_factory.mktemp("short")), settings=CPU)


@pytest.fixture(scope="module")
def windows(encoder: Encoder) -> WindowEncoder:
    return WindowEncoder(encoder)


def test_windows_begin_and_end_with_sentences_and_cover_the_text(encoder: Encoder) -> None:
    windows = WindowEncoder(encoder, WindowSettings(overlap=0.25))
    assert windows.limit == LIMIT - 2
    (found,) = windows.split([LONG])
    # Each sentence has 5 tokens. The model reads 30, of which the first window repeats 7 to 14: it begins at 20.
    assert found[0].startswith("Item 4 is")
    for window in found:
        assert window.startswith("Item")
        assert window.endswith(".")
        assert len(encoder.model.tokenizer(window)["input_ids"]) <= LIMIT
    assert set(SENTENCES[4:]) <= {sentence + "." for window in found for sentence in window[:-1].split(". ")}


def test_text_that_fits_has_no_window(encoder: Encoder, windows: WindowEncoder) -> None:
    fits = " ".join(["word"] * (LIMIT - 2))
    assert windows.split([fits, f"{fits} more", "", "\ud800"]) == [[], ["word word word more"], [], []]
    prompted = Encoder(encoder.model, name="x", fingerprint="x", settings=CPU)
    prompts = encoder.model.prompts
    try:
        encoder.model.prompts = {**prompts, "document": "a passage: "}
        assert WindowEncoder(prompted).limit == LIMIT - 2 - 3
    finally:
        encoder.model.prompts = prompts


@settings(max_examples=12)
@given(
    lengths=st.lists(st.integers(1, 12), max_size=80),
    marks=st.lists(st.sampled_from(["", ".", "\n", "!\n\n", "。"]), min_size=1, max_size=7),
    overlap=st.sampled_from([0.0, 0.125, 0.25]),
    tokens=st.sampled_from([None, 16, 30, 99]),
)
@example(lengths=[1, 12, 12], marks=["."], overlap=0.0, tokens=None)
def test_every_word_beyond_the_limit_is_in_a_window(
    windows: WindowEncoder, lengths: list[int], marks: list[str], overlap: float, tokens: int | None
) -> None:
    words = [f"{'q' * length}{n}{marks[n % len(marks)]}" for n, length in enumerate(lengths)]
    text = " ".join(words)
    splitter = WindowEncoder(windows.encoder, WindowSettings(tokens=tokens, overlap=overlap))
    (found,) = splitter.split([text])
    size, tokenizer = min(tokens or 30, 30), windows.encoder.model.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert bool(found) == (len(ids) > 30)
    place = 0
    for window in found:
        assert 0 < len(tokenizer(window, add_special_tokens=False)["input_ids"]) <= size + 1
        # A single window may be a mark that other words have too; it is at the end.
        start = text.rindex(window) if len(found) == 1 else text.index(window, max(0, place - len(window)))
        assert not place or not text[place:start].strip()  # nothing is left out
        place = start + len(window)
    assert not found or not text[place:].strip()


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"tokens": 3}, {"overlap": 0.5}, {"overlap": -0.1}):
        with pytest.raises(AceFinetuneError, match="windows"):
            WindowSettings(**wrong)


@pytest.mark.slow
def test_an_export_splits_as_the_model_does(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", prompts={"query": "", "document": "passage: "})
    export(folder, "onnx")
    expected = WindowEncoder(Encoder.load(folder, settings=CPU))
    exported = WindowEncoder(opened(folder, "onnx"))
    assert exported.limit == expected.limit == 24 - 2 - 2
    assert exported.split([LONG, "short"]) == expected.split([LONG, "short"])
    assert len(exported.split([LONG])[0]) > 5


def test_stored_windows_round_trip_and_follow_changes(windows: WindowEncoder, tmp_path: Path) -> None:
    stored, folder = StoredWindows(windows), tmp_path / "windows"
    assert stored.add(["short", LONG, "short"]) == 2
    stored.save(folder)
    opened_again = StoredWindows.open(folder, windows)
    keys, counts, vectors = opened_again.windows()
    assert (keys, counts.tolist()) == ([text_key(LONG)], [len(windows.split([LONG])[0])])
    expected = windows.encoder.encode_documents(windows.split([LONG])[0])
    assert np.array_equal(vectors, expected)
    assert opened_again.is_short(text_key("short"))
    assert opened_again.missing(["short", LONG, "new"]) == ["new"]
    assert opened_again.add([LONG[20:], "new"]) == 2
    opened_again.delete([text_key(LONG), "unknown"])
    opened_again.flush()
    last = StoredWindows.open(folder, windows)
    assert last.windows()[0] == [text_key(LONG[20:])]
    assert len(last) == 3


@pytest.mark.parametrize("damage", ["nothing", "meta", "vectors", "counts", "model"])
def test_windows_that_cannot_be_used_are_refused(windows: WindowEncoder, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "windows"
    if damage != "nothing":
        stored = StoredWindows(windows)
        stored.add([LONG])
        stored.save(folder)
    if damage == "meta":
        (folder / "meta.json").write_text("{}", "utf-8")
    if damage == "vectors":
        vectors = np.load(folder / "vectors.npy")
        np.save(folder / "vectors.npy", -vectors)
    if damage == "counts":
        (folder / "counts.npy").write_bytes(b"x")
    other = WindowEncoder(windows.encoder, WindowSettings(overlap=0.2)) if damage == "model" else windows
    with pytest.raises(StoreError, match="build the index again"):
        StoredWindows.open(folder, other)
