from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.settings import EncoderSettings

MakeFolder = Callable[..., Path]


def fingerprint(folder: Path, **settings: object) -> str:
    return identify_model(folder, settings=EncoderSettings(**settings)).fingerprint  # type: ignore[arg-type]


def test_copy_of_a_model_has_the_same_fingerprint(model_folder: MakeFolder, tmp_path: Path) -> None:
    folder = model_folder()
    copy = Path(shutil.copytree(folder, tmp_path / "deeper" / "under" / "another-name"))
    assert fingerprint(copy) == fingerprint(folder)
    assert len(fingerprint(folder)) == 32
    assert int(fingerprint(folder), 16) >= 0


@pytest.mark.parametrize("place", [-1, 150, -20])
def test_one_changed_weight_byte_changes_the_fingerprint(model_folder: MakeFolder, place: int) -> None:
    folder = model_folder()
    before = fingerprint_folder(folder, {})
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert fingerprint_folder(folder, {}) != before
    content[place] ^= 1
    file.write_bytes(content)
    assert fingerprint_folder(folder, {}) == before


def test_configuration_tokenizer_and_pooling_change_the_fingerprint(model_folder: MakeFolder) -> None:
    folder = model_folder()
    seen = {fingerprint(folder)}
    (folder / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    seen.add(fingerprint(folder))
    (folder / "vocab.txt").write_text("word\n", encoding="utf-8")
    seen.add(fingerprint(folder))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    seen.add(fingerprint(folder))
    shutil.move(folder / "1_Pooling", folder / "2_Pooling")
    seen.add(fingerprint(folder))
    assert len(seen) == 5


@pytest.mark.parametrize(
    "name", ["README.md", "ace_finetune.json", "trainer_state.json", ".cache/refs.json", "log.csv"]
)
def test_files_without_effect_on_vectors_are_ignored(model_folder: MakeFolder, name: str) -> None:
    folder = model_folder()
    before = fingerprint(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}", encoding="utf-8")
    assert fingerprint(folder) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"max_seq_length": 64},
        {"query_prompt": "query: "},
        {"document_prompt": "passage: "},
        {"truncate_dim": 128},
    ],
)
def test_settings_with_effect_on_vectors_change_the_fingerprint(
    model_folder: MakeFolder, settings: dict[str, object]
) -> None:
    folder = model_folder()
    assert fingerprint(folder, **settings) != fingerprint(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [("sentence_bert_config.json", {"max_seq_length": 64}), ("tokenizer_config.json", {"model_max_length": 64})],
)
def test_limit_above_that_of_the_model_is_ignored(model_folder: MakeFolder, file: str, content: dict) -> None:
    folder = model_folder()
    (folder / "sentence_bert_config.json").write_text("{}")
    (folder / file).write_text(json.dumps(content))
    assert fingerprint(folder, max_seq_length=64) == fingerprint(folder, max_seq_length=100) == fingerprint(folder)
    assert fingerprint(folder, max_seq_length=63) != fingerprint(folder)


@pytest.mark.parametrize(
    "settings", [{"device": "cpu"}, {"batch_size": 3}, {"precision": "bfloat16"}, {"trust_remote_code": True}]
)
def test_device_and_batch_size_are_ignored(model_folder: MakeFolder, settings: dict[str, object]) -> None:
    folder = model_folder()
    assert fingerprint(folder, **settings) == fingerprint(folder)


def test_family_prompts_change_the_fingerprint(model_folder: MakeFolder) -> None:
    plain, family = model_folder("plain"), model_folder("e5-base-v2")
    assert fingerprint_folder(plain, {}) == fingerprint_folder(family, {})
    assert fingerprint(plain) != fingerprint(family)
    assert identify_model(family).prompts.query == "query: "
    given = EncoderSettings(query_prompt="", document_prompt="")
    assert identify_model(family, settings=given).prompts.query == ""


class TestFingerprintOfTheDocuments:
    """It is that of the base if training did not change the document encoder."""

    @staticmethod
    def documents(folder: Path, **settings: object) -> str:
        return identify_model(folder, settings=EncoderSettings(**settings)).documents  # type: ignore[arg-type]

    @pytest.fixture
    def trained(self, model_folder: MakeFolder) -> Path:
        folder = model_folder()
        record = {"fingerprint": fingerprint_folder(folder, {}), "document_fingerprint": "of the base"}
        (folder / "ace_finetune.json").write_text(json.dumps(record))
        return folder

    def test_model_without_record_uses_its_fingerprint(self, model_folder: MakeFolder) -> None:
        folder = model_folder()
        assert self.documents(folder) == fingerprint(folder)

    @pytest.mark.parametrize("settings", [{}, {"query_prompt": "query: "}, {"device": "cpu", "precision": "bfloat16"}])
    def test_recorded_fingerprint_is_used(self, trained: Path, settings: dict[str, object]) -> None:
        assert self.documents(trained, **settings) == "of the base"
        assert fingerprint(trained, **settings) != "of the base"

    @pytest.mark.parametrize("settings", [{"document_prompt": "d: "}, {"truncate_dim": 4}, {"max_seq_length": 4}])
    def test_settings_with_effect_on_documents_change_it(self, trained: Path, settings: dict[str, object]) -> None:
        assert self.documents(trained, **settings) == fingerprint(trained, **settings)

    def test_record_of_other_files_is_ignored(self, trained: Path) -> None:
        config = trained / "config_sentence_transformers.json"
        config.write_text(json.dumps({"prompts": {"query": "changed"}}))
        assert self.documents(trained) == fingerprint(trained)


def test_trusted_code_changes_the_fingerprint(model_folder: MakeFolder) -> None:
    folder = model_folder()
    (folder / "modeling.py").write_text("SCALE = 1", encoding="utf-8")
    plain, trusted = fingerprint(folder), fingerprint(folder, trust_remote_code=True)
    (folder / "modeling.py").write_text("SCALE = 2", encoding="utf-8")
    assert fingerprint(folder) == plain
    assert fingerprint(folder, trust_remote_code=True) != trusted


def test_fingerprints_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    """Stored indexes carry them: the files' hashes by name, then the settings."""
    (tmp_path / "1_Pooling").mkdir()
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json"):
        (tmp_path / name).write_bytes(name.encode())
    assert fingerprint_folder(tmp_path, {"max_seq_length": None}) == "822a477e121227d7a0bf842155ec1cd1"
