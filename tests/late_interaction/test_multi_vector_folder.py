"""Folders that sentence_transformers.MultiVectorEncoder loads as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim_scores
from llama_index_ace_finetune.late_interaction.multi_vector_folder import load_multi_vector, save_multi_vector
from llama_index_ace_finetune.late_interaction.projection import principal_projection
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder

sys.path.append(str(Path(__file__).parent.parent / "encoders"))
from tiny_model import LENGTH, tiny_model

CPU = EncoderSettings(device="cpu")
QUERIES = ["restart the worker", "x", "", "a query that is longer than the limit of the model " * 3]
MEMORIES = [
    "Restart the queue worker when jobs wait.",
    "",
    "x, y; z.",
    "caché ☃ 猫",
    "A memory of many words that says what to do when the disk of the build machine is full " * 4,
    "How do I sign in again?",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    prompts = {"query": "search for: ", "document": "passage: "}
    return Encoder.load(tiny_model(tmp_path_factory.mktemp("models") / "tiny", prompts=prompts), settings=CPU)


@pytest.mark.parametrize("dimension", [None, 12])
def test_sentence_transformers_ranks_alike(encoder: Encoder, dimension: int | None, tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    states = TokenEncoder(encoder).encode_documents(MEMORIES)
    ours = TokenEncoder(encoder, principal_projection(states.vectors, dimension) if dimension else None)
    folder = save_multi_vector(ours, tmp_path / "multi-vector")
    theirs = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
    their_queries = theirs.encode_query(QUERIES, convert_to_numpy=True)
    their_memories = theirs.encode_document(MEMORIES, convert_to_numpy=True)
    expected = theirs.similarity(their_queries, their_memories).numpy()
    back = load_multi_vector(folder, settings=CPU)
    candidates = np.tile(np.arange(len(MEMORIES)), (len(QUERIES), 1))
    for each in (ours, back):
        queries, memories = each.encode_queries(QUERIES), each.encode_documents(MEMORIES)
        assert queries.lengths.tolist() == [len(rows) for rows in their_queries]
        assert queries.lengths.max() == memories.lengths.max() == LENGTH
        assert memories.dimension == (dimension or 32)
        for text in range(len(MEMORIES)):
            assert np.abs(memories[text] - their_memories[text]).max() < 1e-4
        scores = max_sim_scores(queries, memories, candidates)
        assert np.abs(scores - expected).max() < 1e-4
        assert (np.argsort(-scores, axis=1) == np.argsort(-expected, axis=1)).all()


def test_the_model_is_not_changed_by_saving(encoder: Encoder, tmp_path: Path) -> None:
    before = encoder.encode_queries(QUERIES)
    save_multi_vector(TokenEncoder(encoder), tmp_path / "one")
    save_multi_vector(TokenEncoder(encoder), tmp_path / "one")  # replaces it
    assert (encoder.encode_queries(QUERIES) == before).all()


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("config.json", {"skiplist_words": ["."]}, "a list of tokens that do not count"),
        ("sentence_bert_config.json", {"query_length": 8}, "query expansion, or lengths per role"),
    ],
)
def test_settings_that_change_the_tokens_are_refused(
    encoder: Encoder, tmp_path: Path, file: str, change: dict, what: str
) -> None:
    folder = save_multi_vector(TokenEncoder(encoder), tmp_path / "model")
    (path,) = (found for found in folder.rglob(file) if file != "config.json" or "Mask" in str(found))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=f"has {what}, which is not supported"):
        load_multi_vector(folder, settings=CPU)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_multi_vector(tmp_path / "none")


def test_a_dual_encoder_has_no_such_folder(encoder: Encoder, tmp_path: Path) -> None:
    import copy

    from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder

    trained = copy.deepcopy(encoder.model)
    same = Encoder(dual_encoder(trained, encoder.model), name="same", fingerprint="f", settings=CPU)
    assert save_multi_vector(TokenEncoder(same), tmp_path / "same").is_dir()
    next(trained.parameters()).data += 1
    dual = Encoder(dual_encoder(trained, encoder.model), name="dual", fingerprint="f", settings=CPU)
    with pytest.raises(ModelError, match="does not have one transformer for queries and documents"):
        save_multi_vector(TokenEncoder(dual), tmp_path / "model")
    assert not (tmp_path / "model").exists()
