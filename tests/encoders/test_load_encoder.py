"""Which form of a model serves."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from tiny_model import export, tiny_model

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.exports import runtime
from llama_index_ace_finetune.encoders.exports.load_encoder import load_encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose onnx export was the faster one."""
    folder = tiny_model(tmp_path_factory.mktemp("load") / "model")
    export(folder, "openvino", milliseconds=3.0)
    export(folder, "onnx", milliseconds=2.0)
    return folder


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def test_fastest_export_is_used(model: Path) -> None:
    assert load_encoder(model).backend == "onnx"
    shutil.rmtree(model / "onnx")
    assert load_encoder(model).backend == "openvino"
    shutil.rmtree(model / "openvino")
    assert load_encoder(model).backend == "torch"


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_named_backend_is_used(model: Path, backend: str) -> None:
    assert load_encoder(model, backend=backend).backend == backend  # type: ignore[arg-type]


def test_other_device_uses_torch(model: Path) -> None:
    assert load_encoder(model, settings=EncoderSettings(device="cpu")).backend == "onnx"
    assert load_encoder(model, settings=EncoderSettings(device="cpu:0")).backend == "torch"


def test_damaged_export_falls_back_to_torch_with_a_warning(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    (model / "onnx" / "model.onnx").write_bytes(b"")
    assert load_encoder(model).backend == "openvino"
    (model / "openvino" / "ace_finetune_export.json").write_text("{")
    caplog.clear()
    assert load_encoder(model).backend == "torch"
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 2
    assert all("is corrupt" in message and "is not used" in message for message in messages)
    with pytest.raises(ModelError, match="corrupt"):
        load_encoder(model, backend="onnx")


def test_missing_package_falls_back_without_warning(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    assert load_encoder(model).backend == "torch"
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message for message in warnings if "no prompts are known" not in message] == []


def test_encoder_of_any_backend_can_be_wrapped(model: Path) -> None:
    for backend in ("torch", "onnx"):
        encoder = load_encoder(model, settings=EncoderSettings(device="cpu", precision="auto"), backend=backend)  # type: ignore[arg-type]
        embedding = FineTunedEmbedding.from_encoder(encoder)
        assert embedding.backend == backend
        assert embedding.fingerprint == encoder.fingerprint
        copied = FineTunedEmbedding.from_dict(embedding.to_dict())
        assert copied.encoder.backend == backend


def test_unknown_backend_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="The backend is 'tensorrt'; it must be auto, torch, onnx or openvino"):
        load_encoder(model, backend="tensorrt")  # type: ignore[arg-type]
