"""The sparse encoder: the vectors of sentence-transformers, and folders that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_sparse import make_sparse_encoder

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.ranking.sparse_index import SparseIndex
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

TEXTS = ["restart the cache after a deploy", "pool limit", "", "disk \ud800 logs", "timeout alert retry token"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sparse_encoder(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SparseTextEncoder:
    return SparseTextEncoder.load(folder, device="cpu")


def test_vectors_equal_sentence_transformers(encoder: SparseTextEncoder) -> None:
    found = encoder.encode_documents(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), encoder.dimension), np.float32)
    texts = [replace_lone_surrogates(text) for text in TEXTS]
    expected = encoder.model.encode_document(texts, convert_to_sparse_tensor=False).cpu().numpy()
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)
    assert (found.toarray()[0] > 0).any()
    assert encoder.encode_queries([]).shape == (0, encoder.dimension)


def test_the_index_ranks_by_the_dot_product(encoder: SparseTextEncoder) -> None:
    index = SparseIndex.build(TEXTS, encoder)
    expected = (encoder.encode_queries(["cache deploy"]) @ encoder.encode_documents(TEXTS).T).toarray()[0]
    np.testing.assert_allclose(index.scores("cache deploy"), expected, rtol=1e-5)


def test_progress_counts_texts(encoder: SparseTextEncoder) -> None:
    counts: list[int] = []
    encoder.encode_documents(TEXTS, progress=counts.append)
    assert sum(counts) == len(TEXTS)


def test_the_fingerprint_is_of_the_content(folder: Path, encoder: SparseTextEncoder, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert SparseTextEncoder.load(copied).fingerprint == encoder.fingerprint
    assert SparseTextEncoder.load(make_sparse_encoder(tmp_path, seed=1)).fingerprint != encoder.fingerprint


def test_unsafe_or_missing_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        SparseTextEncoder.load(tmp_path / "none")
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    modules = json.loads((foreign / "modules.json").read_text())
    modules[0]["type"] = "os.system"
    (foreign / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"os\.system"):
        SparseTextEncoder.load(foreign)
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    for file in pickled.rglob("*.safetensors"):
        file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="safetensors"):
        SparseTextEncoder.load(pickled)


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no sparse encoder"):
        SparseTextEncoder.load(DEFAULT_BASE_MODEL)
