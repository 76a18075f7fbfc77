from __future__ import annotations

from pathlib import Path

import pytest
from helpers.serving_files import write_tuned_model

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding


@pytest.fixture(scope="session")
def tuned_model(one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tuned_model(tmp_path_factory.mktemp("tuned") / "model", base=one_layer)


@pytest.fixture(scope="session")
def tuned(tuned_model: Path) -> FineTunedEmbedding:
    return FineTunedEmbedding(str(tuned_model))
