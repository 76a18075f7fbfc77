from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.serving_files import BASE, write_run, write_tuned_model

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import MemoryStore


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that must not be opened or changed; use `run` for that."""
    folder = tmp_path_factory.mktemp("finished")
    return write_run(folder / "run", write_tuned_model(folder / "tuned"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run folder for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def tuned(finished_run: Path) -> FineTunedEmbedding:
    return FineTunedEmbedding(str(finished_run / "model"))


@pytest.fixture(scope="session")
def baseline() -> FineTunedEmbedding:
    return FineTunedEmbedding(BASE)


@pytest.fixture(scope="session")
def store(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryStore]:
    index = shutil.copytree(finished_run / "index", tmp_path_factory.mktemp("open") / "index")
    with MemoryStore.open(path=index) as store:
        yield store


@pytest.fixture(scope="session")
def make_retriever(
    store: MemoryStore, tuned: FineTunedEmbedding, baseline: FineTunedEmbedding
) -> Callable[..., FineTunedHybridRetriever]:
    """Retrievers over one open store and two loaded models."""

    def make(**options) -> FineTunedHybridRetriever:
        return FineTunedHybridRetriever(store, **{"embed_model": tuned, "baseline_model": baseline, **options})

    return make
