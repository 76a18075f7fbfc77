from __future__ import annotations

import pytest

from llama_index_ace_finetune.encoders.prompts import Prompts, resolve_prompts

E5 = Prompts("query: ", "passage: ")
BGE = Prompts(query="Represent this sentence for searching relevant passages: ")
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
