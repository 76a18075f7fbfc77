from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.prompts import Prompts, published_name, resolve_prompts
from llama_index_ace_finetune.encoders.provenance import PROVENANCE, settings_of_base
from llama_index_ace_finetune.encoders.settings import EncoderSettings

E5 = Prompts("query: ", "passage: ")
BGE = Prompts(query="Represent this sentence for searching relevant passages: ")
INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
NOMIC = Prompts("search_query: ", "search_document: ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("intfloat/e5-small-v2", E5),
        ("intfloat/e5-large", E5),
        ("intfloat/e5-base-unsupervised", E5),
        ("intfloat/multilingual-e5-base", E5),
        ("intfloat/multilingual-e5-large", E5),
        ("BAAI/bge-small-en-v1.5", BGE),
        ("BAAI/bge-large-en", BGE),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("nomic-ai/nomic-embed-text-v1", NOMIC),
        ("mixedbread-ai/mxbai-embed-large-v1", BGE),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", BGE),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", Prompts(query="query: ")),
        ("sentence-transformers/all-MiniLM-L6-v2", Prompts()),
        ("BAAI/bge-m3", Prompts()),
        ("Qwen/Qwen3-Embedding-0.6B", Prompts(query=INSTRUCT)),
        ("intfloat/multilingual-e5-large-instruct", Prompts(query=f"{INSTRUCT} ")),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", Prompts(query=f"{INSTRUCT} ")),
        ("thenlper/gte-base", Prompts()),
        ("google/embeddinggemma-300m", Prompts("task: search result | query: ", "title: none | text: ")),
        ("nomic-ai/nomic-embed-text-v2-moe", NOMIC),
        ("nomic-ai/modernbert-embed-base", NOMIC),
        ("someone/not-e5-at-all", Prompts()),
    ],
)
def test_families_have_their_published_prompts(name: str, expected: Prompts) -> None:
    assert resolve_prompts(name, {}) == expected


@pytest.mark.parametrize(
    "name",
    ["/models/e5-base-v2", "./e5-base-v2/", "C:\\models\\e5-base-v2", "models/E5-Base-v2", "tuned/my-e5-base-v2"],
)
def test_local_folder_is_matched_by_its_last_part(name: str) -> None:
    assert resolve_prompts(name, {}) == E5


def test_family_name_in_a_parent_folder_is_ignored() -> None:
    assert resolve_prompts("e5-base-v2/checkpoints/last", {}) == Prompts()


def test_saved_prompts_take_precedence() -> None:
    saved = {"query": "ask: ", "document": "text: "}
    assert resolve_prompts("intfloat/e5-base-v2", saved) == Prompts("ask: ", "text: ")
    assert resolve_prompts("intfloat/e5-base-v2", {"query": "ask: "}) == Prompts("ask: ", "")


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_names_of_document_prompts(name: str) -> None:
    assert resolve_prompts("any", {name: "text: "}) == Prompts("", "text: ")


def test_empty_saved_prompts_are_ignored() -> None:
    assert resolve_prompts("intfloat/e5-base-v2", {"query": "", "document": ""}) == E5


def test_other_saved_prompts_are_ignored() -> None:
    assert resolve_prompts("any", {"clustering": "group: "}) == Prompts()


def renamed(folder: Path) -> Path:
    """A model folder under a name that says nothing."""
    copy = folder / "model"
    shutil.copytree(resolve_checkpoint(DEFAULT_BASE_MODEL), copy)
    for name in ("README.md", "config_sentence_transformers.json"):
        (copy / name).unlink(missing_ok=True)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


def test_folder_gets_the_prompts_of_the_model_that_it_is(tmp_path: Path) -> None:
    folder = renamed(tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert identify_model(folder).prompts == Prompts()

    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nomic_bert"}), encoding="utf-8")
    assert identify_model(folder).prompts == NOMIC
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# e5-small-v2\n\n## Usage\n", encoding="utf-8")
    assert identify_model(folder).prompts == E5
    (folder / "README.md").write_text("---\nmodel-index:\n- name: e5-base\n  results: []\n---\n", encoding="utf-8")
    assert identify_model(folder).prompts == E5
    named = {**config, "_name_or_path": "BAAI/bge-small-en-v1.5"}
    (folder / "config.json").write_text(json.dumps(named), encoding="utf-8")
    assert identify_model(folder).prompts == BGE
    saved = {"prompts": {"query": "ask: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved), encoding="utf-8")
    assert identify_model(folder).prompts == Prompts("ask: ")
    assert identify_model(folder, settings=EncoderSettings(query_prompt="", document_prompt="d: ")).prompts == Prompts(
        "", "d: "
    )


def test_snapshot_of_the_hub_cache_is_known_by_its_place(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--intfloat--e5-base-v2" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    assert published_name(snapshot) == "intfloat/e5-base-v2"


def test_trained_model_keeps_its_prompts_whatever_its_card_says(tmp_path: Path) -> None:
    folder = renamed(tmp_path)
    (folder / "README.md").write_text("# e5-small-v2\n", encoding="utf-8")
    (folder / PROVENANCE).write_text("{}", encoding="utf-8")
    assert identify_model(folder).prompts == Prompts()


def test_unknown_model_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = renamed(tmp_path)
    with caplog.at_level(logging.WARNING):
        identify_model(folder, settings=EncoderSettings(query_prompt="q: "))
        assert caplog.messages == []
        identify_model(folder)
        identify_model(folder)
        identify_model(DEFAULT_BASE_MODEL)
    (message,) = caplog.messages
    assert "no prompts are known for the model" in message
    assert "--query-prompt" in message


def test_base_is_loaded_with_the_prompts_of_the_training() -> None:
    record = {"base_model": "base", "config": {"query_prompt": "q: ", "document_prompt": None}}
    assert settings_of_base(record, "base", EncoderSettings()).query_prompt == "q: "
    assert settings_of_base(record, "another", EncoderSettings()) == EncoderSettings()
    assert settings_of_base(None, "base", EncoderSettings()) == EncoderSettings()
