"""Model folders that a stranger may have made: a sentence at once, before any library loads them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_model import CPU, tiny_model

from llama_index_ace_finetune.encoders import model_files
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.model_files import check_model_files, check_module_classes
from llama_index_ace_finetune.encoders.teacher import load_teacher
from llama_index_ace_finetune.errors import ModelError

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def _set(file: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**content, **values}), encoding="utf-8")

    return change


def _text(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text, encoding="utf-8") and None  # type: ignore[func-returns-value]


def _instead(file: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return change


def _module(number: int = 0, **values: Any) -> Change:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules[number].update(values)
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")

    return change


def _claims_a_gigabyte(file: Path) -> None:
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", 2**30))
        handle.truncate(2**30 + 8)


def _loop(file: Path) -> None:
    file.symlink_to(file)


FILES: dict[str, tuple[Change, str]] = {
    "weights are a pipe": (_instead("model.safetensors", os.mkfifo), "named pipe"),
    "weights are a folder": (_instead("model.safetensors", Path.mkdir), "is a folder"),
    "weights are a link in a circle": (_instead("model.safetensors", _loop), "symbolic link"),
    "weights are zeros without end": (
        _instead("model.safetensors", lambda f: f.symlink_to("/dev/zero")),
        "link out of",
    ),
    "header claims a gigabyte": (_instead("model.safetensors", _claims_a_gigabyte), "claims 1,073,741,824 bytes"),
    "config is a pipe": (_instead("config.json", os.mkfifo), "named pipe"),
    "config is a folder": (_instead("config.json", Path.mkdir), "is a folder"),
    "tokenizer is a pipe": (_instead("tokenizer.json", os.mkfifo), "named pipe"),
    "pooling is a pipe": (_instead("1_Pooling/config.json", os.mkfifo), "named pipe"),
    "vocabulary is a pipe": (lambda folder: os.mkfifo(folder / "vocab.txt"), "named pipe"),
    "link to the password file": (lambda folder: (folder / "vocab.txt").symlink_to("/etc/passwd"), "link out of"),
    "folder outside": (lambda folder: (folder / "3_Dense").symlink_to("/tmp"), "link out of"),
    "config is nested": (_text("config.json", '{"a":' * 100_000), "nested"),
    "tokenizer is nested": (_text("tokenizer.json", "[" * 100_000 + "]" * 100_000), "nested"),
    "modules are nested": (_text("modules.json", "[" * 100_000 + "]" * 100_000), "nested"),
    "pooling is nested": (_text("1_Pooling/config.json", '{"a":' * 500 + "1" + "}" * 500), "nested"),
    "config is a list": (_text("config.json", "[1]"), "no JSON object"),
    "config has an integer without end": (_text("config.json", '{"hidden_size": ' + "9" * 100_000 + "}"), "digits"),
    "a hundred thousand layers": (_set("config.json", num_hidden_layers=100_000), "num_hidden_layers: 100000"),
    "two thousand layers": (_set("config.json", num_hidden_layers=2000), "num_hidden_layers: 2000"),
    "absurd width": (_set("config.json", hidden_size=4096), "hidden_size: 4096"),
    "absurd vocabulary": (_set("config.json", vocab_size=3_000_000), "vocab_size: 3000000"),
    "absurd positions": (_set("config.json", max_position_embeddings=10**9), "max_position_embeddings"),
    "absurd types": (_set("config.json", type_vocab_size=2_000_000), "type_vocab_size"),
    "absurd nested config": (_set("config.json", text_config={"num_hidden_layers": 10**5}), "num_hidden_layers"),
    "length is a text": (_set("sentence_bert_config.json", max_seq_length="512"), "max_seq_length: '512'"),
    "length is a list": (_set("tokenizer_config.json", model_max_length=[512]), "model_max_length"),
    "length is negative": (_set("tokenizer_config.json", model_max_length=-1), "model_max_length"),
}


@pytest.mark.parametrize("case", FILES)
def test_hostile_model_folder_is_refused_at_once(case: str, folder: Path) -> None:
    change, word = FILES[case]
    change(folder)
    begun = time.process_time()
    with pytest.raises(ModelError, match=word) as raised:
        Encoder.load(folder, settings=CPU)
    assert time.process_time() - begun < 1
    assert len(str(raised.value)) < 500
    with pytest.raises(ModelError, match=word):
        load_teacher(folder)


CLASSES: dict[str, Change] = {
    "module of another package": _module(type="os.path.Evil"),
    "module of the folder": _module(type="modeling_evil.Evil"),
    "function of sentence-transformers": _module(type="sentence_transformers.util.http_get"),
    "module behind a module": _module(type="sentence_transformers.base.model.torch"),
    "module elsewhere": _module(1, path="../outside"),
    "module at a path of no characters": _module(1, path="a\ud800"),
    "module at a path that is too long": _module(1, path="a" * 5000),
    "module at an absolute path": _module(1, path="/tmp"),
    "module without a type": _module(type=None),
    "router": _set("router_config.json", types={"query_0": "evil.Evil"}, structure={}),
    "legacy router": _set("1_Pooling/config.json", types={"query_0": "evil.Evil"}),
    "activation": _set("1_Pooling/config.json", activation_function="torch.utils.collect_env.main"),
    "activation of a cross-encoder": _set("config.json", sbert_ce_default_activation_function="os.getcwd"),
    "tokenizer of words": _set("wordembedding_config.json", tokenizer_class="evil.Tokenizer"),
    "modules that are no list": _text("modules.json", '{"a": 1}'),
    "a hundred modules": _text("modules.json", json.dumps([{"path": "", "type": "x"}] * 100)),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_of_other_packages_are_refused(case: str, folder: Path) -> None:
    CLASSES[case](folder)
    with pytest.raises(ModelError, match=r"model (file|folder)"):
        Encoder.load(folder, settings=CPU)


def test_trusted_code_may_name_its_classes(folder: Path) -> None:
    (folder / "evil.py").write_text("raise RuntimeError('this ran')\n", encoding="utf-8")
    _module(1, type="evil.Evil")(folder)
    check_model_files(folder)
    with pytest.raises(ModelError, match=r"evil\.Evil.*set trust_remote_code"):
        check_module_classes(folder)


def test_complete_models_are_accepted(whole: Path, minilm: Encoder) -> None:
    for path in (whole, resolve_checkpoint(minilm.name)):
        check_model_files(path)
        check_module_classes(path)


def _as_in_the_hub_cache(whole: Path, cache: Path) -> Path:
    """The layout of the hub's cache: files are links from a snapshot to blobs two folders up."""
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in whole.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_links_of_the_hub_cache_are_followed(whole: Path, tmp_path: Path) -> None:
    snapshot = _as_in_the_hub_cache(whole, tmp_path / "hub")
    assert Encoder.load(snapshot, settings=CPU).dimension == 32
    alias = tmp_path / "alias"
    alias.symlink_to(snapshot)
    check_model_files(alias)
    (snapshot / "1_Pooling" / "config.json").unlink()
    (snapshot / "1_Pooling" / "config.json").symlink_to(whole / "1_Pooling" / "config.json")
    with pytest.raises(ModelError, match="link out of"):
        check_model_files(snapshot)


def test_links_within_a_folder_are_followed(folder: Path) -> None:
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    check_model_files(folder)


def test_folder_with_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_MAX_FILES", 20)
    for number in range(20):
        (folder / str(number)).touch()
    with pytest.raises(ModelError, match="more than 20 files"):
        check_model_files(folder)
