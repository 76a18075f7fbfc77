"""Base models that are found in the hub cache, and those that are left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_index_ace_finetune.encoders import checkpoints, local_bases
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.local_bases import UNUSABLE, find_local_bases
from llama_index_ace_finetune.encoders.provenance import PROVENANCE, read_base_provenance
from llama_index_ace_finetune.errors import ModelError

AddModel = Callable[[str], Path]
DENSE = [{"type": "sentence_transformers.models.Transformer", "path": ""}]


@pytest.fixture
def add_model(model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddModel:
    """Add a model of 10 weights to a hub cache and return the folder of its files."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    # huggingface_hub reads the variable when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(name: str) -> Path:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("a" * 40)
        shutil.copytree(model_folder(f"new/{name}"), snapshot)
        (snapshot / "modules.json").write_text(json.dumps(DENSE), encoding="utf-8")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
        return snapshot

    return add


def test_models_of_the_cache_are_found_without_the_network(
    add_model: AddModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", no_network)
    assert find_local_bases().names == (DEFAULT_BASE_MODEL,)
    add_model("b/first")
    folder = add_model("a/second")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"model_type": "SentenceTransformer"}), encoding="utf-8"
    )
    found = find_local_bases()
    assert found.names == (DEFAULT_BASE_MODEL, "a/second", "b/first")
    assert found.skipped == ()
    assert resolve_checkpoint("a/second", allow_download=False) == folder


def test_the_record_of_a_tuned_model_is_found_by_its_hub_name(add_model: AddModel) -> None:
    folder = add_model("team/tuned")
    assert read_base_provenance("team/tuned") is None
    record = {"format_version": 2, "base_model": DEFAULT_BASE_MODEL, "seen": {"train": {"query_hashes": ["a"]}}}
    (folder / PROVENANCE).write_text(json.dumps(record), encoding="utf-8")
    assert read_base_provenance("team/tuned") == read_base_provenance(folder) == record
    assert read_base_provenance("team/not-here") is None


def _truncated(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


def _own_code(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "evil.Evil", "path": ""}]), encoding="utf-8")


def _no_json(folder: Path) -> None:
    (folder / "modules.json").write_text("[", encoding="utf-8")


def _no_snapshot(folder: Path) -> None:
    shutil.rmtree(folder)


def _re_ranker(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}', encoding="utf-8")


def _sparse(folder: Path) -> None:
    modules = [{"type": "sentence_transformers.sparse_encoder.models.SpladePooling", "path": ""}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def _no_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


def _tuned(folder: Path) -> None:
    (folder / "ace_finetune.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_truncated, UNUSABLE),
        (_own_code, UNUSABLE),
        (_no_json, UNUSABLE),
        (_no_snapshot, UNUSABLE),
        (_re_ranker, "re-ranker"),
        (_sparse, "not dense"),
        (_no_modules, "no modules.json"),
        (_tuned, "dev queries"),
    ],
)
def test_damaged_and_foreign_models_are_skipped(change: Callable[[Path], None], why: str, add_model: AddModel) -> None:
    add_model("a/good")
    change(add_model("a/other"))
    found = find_local_bases()
    assert found.names == (DEFAULT_BASE_MODEL, "a/good")
    (skipped,) = found.skipped
    assert skipped.name == "a/other"
    assert why in skipped.why


def test_large_models_and_more_than_a_few_are_skipped(add_model: AddModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        add_model(f"a/number-{number}")
    found = find_local_bases()
    assert found.names == (DEFAULT_BASE_MODEL, *(f"a/number-{number}" for number in range(7)))
    assert [one.name for one in found.skipped] == ["a/number-7", "a/number-8"]
    assert all("8 models at most" in one.why for one in found.skipped)
    monkeypatch.setattr(local_bases, "MAX_PARAMETERS", 9)
    assert "it has 10 parameters, more than 9" in find_local_bases().skipped[-1].why


def test_default_that_is_not_on_this_machine_is_skipped(add_model: AddModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_bundled_folder", lambda: None)
    add_model("a/good")
    found = find_local_bases()
    assert found.names == ("a/good",)
    assert [(one.name, "nothing is downloaded" in one.why) for one in found.skipped] == [(DEFAULT_BASE_MODEL, True)]


def test_folders_with_other_names_are_no_models(add_model: AddModel, tmp_path: Path) -> None:
    add_model("a/good")
    (tmp_path / "hub" / "models--\x1b[2J--x").mkdir()
    (tmp_path / "hub" / "models--a--b--c").mkdir()
    assert find_local_bases().names == (DEFAULT_BASE_MODEL, "a/good")
    assert find_local_bases().skipped == ()


def test_auto_is_no_model_for_other_commands() -> None:
    with pytest.raises(ModelError, match="chosen on dev by `run` and `train` only"):
        resolve_checkpoint("auto")
