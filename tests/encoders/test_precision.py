"""The same inputs give the same vectors and negatives, whatever a cache holds and however fast the machine is."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import tiny_model

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.precision import choose_precision
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def encoder(request: pytest.FixtureRequest, minilm: Encoder) -> Encoder:
    settings = EncoderSettings(device="cpu", precision=request.param)
    return Encoder(minilm.model, name=minilm.name, fingerprint=minilm.fingerprint, settings=settings)


def texts_of(dataset: RetrievalDataset) -> list[str]:
    return [*(query.text for query in dataset.queries.values()), *(memory.text for memory in dataset.memories.values())]


@pytest.mark.parametrize(
    ("machine", "flags", "mkldnn", "expected"),
    [
        ("x86_64", {"_is_avx512_bf16_supported": True}, False, "bfloat16"),
        ("x86_64", {"_is_amx_tile_supported": True}, False, "bfloat16"),
        # oneDNN emulates it on any processor with AVX-512.
        ("x86_64", {}, True, "float32"),
        ("AMD64", {"_is_avx512_bf16_supported": True}, True, "bfloat16"),
        ("aarch64", {}, True, "bfloat16"),
        ("aarch64", {}, False, "float32"),
    ],
)
def test_precision_depends_on_hardware_not_timing(
    machine: str, flags: dict[str, bool], mkldnn: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_clock() -> float:
        raise AssertionError("the precision was timed")

    monkeypatch.setattr(time, "perf_counter", no_clock)
    monkeypatch.setattr("platform.machine", lambda: machine)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: flags.get(name, False))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
    assert choose_precision("cpu") == expected
    assert choose_precision("mps") == "float32"


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ModelError, match="'half'; it must be auto, float32 or bfloat16"):
        EncoderSettings(precision="half")  # type: ignore[arg-type]


def test_vectors_do_not_depend_on_the_cache(encoder: Encoder, small_dataset: RetrievalDataset, tmp_path: Path) -> None:
    texts = texts_of(small_dataset)
    cold = encoder.encode_documents(texts)
    np.testing.assert_array_equal(encoder.encode_documents(texts[::-1])[::-1], cold)
    for part in (texts[::2], texts[:5], texts[::7], texts[3:4], texts):
        rows = [texts.index(text) for text in part]
        found = encoder.encode_documents(part, cache=tmp_path / "cache")
        np.testing.assert_array_equal(found, cold[rows])
    np.testing.assert_array_equal(encoder.encode_documents(texts, cache=tmp_path / "cache"), cold)


def test_mining_does_not_depend_on_the_cache(encoder: Encoder, small_dataset: RetrievalDataset, tmp_path: Path) -> None:
    split = split_dataset(small_dataset)
    files = []
    for turn in range(4):
        cache = None if turn == 0 else tmp_path / "cache"
        if turn == 1:
            # Another command has left vectors of some of these texts, computed in other batches.
            encoder.encode_documents(texts_of(small_dataset)[-12::3], cache=cache)
            encoder.encode_queries(texts_of(small_dataset)[:60:4], cache=cache)
        miner = HardNegativeMiner(encoder=encoder, cache=cache)
        data = generate_training_data(small_dataset, split, miner, source="", generated_at="2020-01-01T00:00:00+00:00")
        data.save(tmp_path / f"{turn}.json")
        files.append((tmp_path / f"{turn}.json").read_bytes())
        assert data.metadata["mining"]["precision"] == encoder.settings.precision
    assert all(one == other for one, other in itertools.pairwise(files))


def test_miner_takes_the_precision_that_it_is_given(small_dataset: RetrievalDataset) -> None:
    for precision in ("float32", "bfloat16"):
        with HardNegativeMiner(precision=precision, device="cpu") as miner:  # type: ignore[arg-type]
            miner.mine(small_dataset, list(small_dataset.queries)[:2], count=2)
            assert miner.report["precision"] == precision


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_files_in_16_bits_are_loaded_in_float32(stored: torch.dtype, tmp_path: Path) -> None:
    """No training in them converges, and vectors would depend on the products of 16-bit numbers."""
    folder = tiny_model(tmp_path / "model")
    settings = EncoderSettings(device="cpu", precision="float32")
    whole = Encoder.load(folder, settings=settings)
    whole.model.to(stored).save_pretrained(str(tmp_path / "half"), create_model_card=False)
    loaded = Encoder.load(tmp_path / "half", settings=settings)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    expected = Encoder.load(folder, settings=settings)
    for name, weight in expected.model.state_dict().items():
        if weight.is_floating_point():
            assert torch.equal(loaded.model.state_dict()[name], weight.to(stored).float()), name
