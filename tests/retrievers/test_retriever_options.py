"""A misspelt or wrong option is refused before a model is loaded, a text embedded, or a file written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.serving_files import BASE
from helpers.words_embedding import words_retriever
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.retriever_options import CheckedOptions, RetrieverOptions, SearchOptions
from llama_index_ace_finetune.retrievers.search_settings import SearchSettings

NODES = [TextNode(text="red apples", id_="a"), TextNode(text="green pears", id_="b")]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"similiarity_top_k": 3}, "has no option 'similiarity_top_k'; did you mean 'similarity_top_k'?"),
    ({"top_k": 3}, "has no option 'top_k'; did you mean '"),
    ({"xyz": 3}, "has no option 'xyz'; it has "),
    ({"similarity_top_k": 0}, "must be at least 1"),
    ({"similarity_top_k": "3"}, "has a wrong type"),
    ({"weights": 3}, "has a wrong type"),
    ({"mode": "best"}, "must be hybrid, dense or sparse"),
    ({"sparse": "elsewhere"}, "must be in_process or server"),
    ({"fallback": "on"}, "must be baseline or off"),
    ({"timeout": "soon"}, "has a wrong type"),
    ({"breaker_failures": 0}, "breaker_failures of 1 or more"),
    ({"bm25": {"k1": 1.2}}, "must be BM25Settings or None"),
]


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded before the options were checked")

    monkeypatch.setattr(Encoder, "load", refuse)


def from_nodes(folder: Path, options: Any) -> FineTunedHybridRetriever:
    return FineTunedHybridRetriever.from_nodes(NODES, model=BASE, path=folder, **options)


def from_run(folder: Path, options: Any) -> FineTunedHybridRetriever:
    return FineTunedHybridRetriever.from_run(folder, **options)


def from_collection(folder: Path, options: Any) -> FineTunedHybridRetriever:
    return FineTunedHybridRetriever.from_collection(model=BASE, path=folder, **options)


def from_vector_store(folder: Path, options: Any) -> FineTunedHybridRetriever:
    client = QdrantClient(":memory:")
    store = QdrantVectorStore("nodes", client=client)
    try:
        return FineTunedHybridRetriever.from_vector_store(store, model=BASE, **options)
    finally:
        assert client.get_collections().collections == []


@pytest.mark.parametrize("make", [from_nodes, from_run, from_collection, from_vector_store])
@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_option_is_refused_before_anything_is_done(
    make: Callable[[Path, Any], FineTunedHybridRetriever], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AceFinetuneError) as refusal:
        make(tmp_path / "index", options)
    assert message in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_word_vectors_that_are_missing_are_noticed_before_an_adoption(tmp_path: Path) -> None:
    with pytest.raises(AceFinetuneError, match="holds no BM25 vectors"):
        from_vector_store(tmp_path, {"sparse": "server"})


def test_every_option_has_its_place() -> None:
    options: RetrieverOptions = {"similarity_top_k": 4, "timeout": 2.0, "breaker_pause": 1.0, "verbose": True}
    checked = CheckedOptions.of(options)
    assert checked.search == SearchSettings(top_k=4)
    assert (checked.fallback.timeout, checked.fallback.cooldown, checked.fallback.failures) == (2.0, 1.0, 3)
    assert checked.verbose
    assert SearchOptions.__optional_keys__ == {"similarity_top_k", *SearchSettings.__dataclass_fields__} - {"top_k"}
    assert SearchOptions.__optional_keys__ < RetrieverOptions.__optional_keys__


def test_option_of_a_retriever_is_none_of_a_call() -> None:
    retriever = words_retriever(NODES)
    with pytest.raises(AceFinetuneError, match="A search has no option 'fallback'"):
        retriever.as_retriever(fallback="off")
    with pytest.raises(AceFinetuneError, match="A retriever has no option 'similiarity_top_k'"):
        FineTunedHybridRetriever(retriever.store, embed_model=None, similiarity_top_k=3)
