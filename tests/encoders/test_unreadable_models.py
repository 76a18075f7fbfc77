"""A model that cannot be opened, for whatever reason, is a ModelError, and the retriever falls back."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny_model import CPU, tiny_model

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders import identity
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.load_encoder import load_encoder
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.retrievers.load_models import load_models

# Of capabilities(7): read and write what no permission allows, which root does otherwise.
_OVERRIDE = 1 << 1 | 1 << 2
_CAPABILITY_VERSION = 0x20080522


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def no_override() -> Iterator[None]:
    """Let permissions bind this thread, even if it is root's."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    without[:] = before[:]
    without[0] &= ~_OVERRIDE
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="root's rights are taken away as Linux does it")
@pytest.mark.usefixtures("no_override")
@pytest.mark.parametrize(
    "name",
    ["", "model.safetensors", "config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling"],
)
def test_model_without_read_permission_falls_back(base: Path, tmp_path: Path, name: str) -> None:
    tuned = Path(shutil.copytree(base, tmp_path / "tuned"))
    (tuned / name).chmod(0)
    try:
        _falls_back(tuned, base)
    finally:
        (tuned / name).chmod(0o755)


def _falls_back(tuned: Path, base: Path) -> None:
    for open_model in (FineTunedEmbedding, Encoder.load, load_encoder):
        with pytest.raises(ModelError, match="tuned") as caught:
            open_model(str(tuned))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(ModelError):
        load_models(tuned, base, fallback="off")
    found, stand_in = load_models(tuned, base, fallback="baseline")
    assert found is None
    assert stand_in is not None
    assert stand_in.model_name == str(base)


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error", "/models/tuned/model.safetensors"),
        SafetensorError("Error while deserializing header"),
        RuntimeError("size mismatch for embeddings.word_embeddings.weight\nmore of it"),
        ValueError("Unrecognized model"),
        KeyError("model_type"),
        AttributeError("'NoneType' object has no attribute 'endswith'"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_library_errors_become_model_errors(
    error: Exception, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = Path(shutil.copytree(base, tmp_path / "tuned"))

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(identity, "fingerprints", fails)
        with pytest.raises(ModelError, match=r"tuned.*cannot be opened") as caught:
            FineTunedEmbedding(str(tuned))
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("llama_index_ace_finetune.encoders.load_model.check_weights", fails)
    with pytest.raises(ModelError, match="tuned"):
        Encoder.load(tuned, settings=CPU)
    found, stand_in = load_models(tuned, base, fallback="baseline")
    assert found is None
    assert stand_in is not None
