from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mining_options import plain

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.teacher import (
    CrossEncoderTeacher,
    EmbeddingTeacher,
    is_cross_encoder,
    load_teacher,
    token_batches,
)
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner

QUERIES = ["restart the worker", "upgrade", "who approves a deploy on Friday evening, and how long does that take?"]
DOCUMENTS = ["The worker restarts on its own", "Ask first", "Drain the queue before the database is upgraded " * 9]
EVERY_PAIR = (np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3))


def write_cross_encoder(folder: Path, *, labels: int = 1, broken: bool = False) -> Path:
    """A random one-layer cross-encoder with the tokenizer of the default model."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(str(resolve_checkpoint(DEFAULT_BASE_MODEL)))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.5,
    )
    model = BertForSequenceClassification(config)
    if broken:
        torch.nn.init.constant_(model.classifier.weight, float("nan"))
    tokenizer.model_max_length = 128
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


def test_cross_encoder_scores_equal_sentence_transformers(cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    teacher = load_teacher(cross_encoder, device="cpu")
    assert isinstance(teacher, CrossEncoderTeacher)
    scores = teacher.score(QUERIES, DOCUMENTS, EVERY_PAIR)
    own = CrossEncoder(str(cross_encoder), device="cpu")
    expected = [float(own.predict([(query, document)])[0]) for query in QUERIES for document in DOCUMENTS]
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert np.ptp(scores) > 1e-3
    assert teacher.score(QUERIES, DOCUMENTS, (np.empty(0, np.int64),) * 2).shape == (0,)


def test_saved_cross_encoder_is_detected(cross_encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross_encoder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "modules.json").is_file()
    assert is_cross_encoder(tmp_path / "saved")
    assert is_cross_encoder(cross_encoder)
    assert not is_cross_encoder(resolve_checkpoint(DEFAULT_BASE_MODEL))
    teacher = load_teacher(str(tmp_path / "saved"), device="cpu")
    assert isinstance(teacher, CrossEncoderTeacher)


def test_embedding_model_scores_are_cosines(minilm: Encoder) -> None:
    teacher = load_teacher(DEFAULT_BASE_MODEL, device="cpu")
    assert isinstance(teacher, EmbeddingTeacher)
    scores = teacher.score(QUERIES, DOCUMENTS, EVERY_PAIR)
    expected = minilm.encode_queries(QUERIES) @ minilm.encode_documents(DOCUMENTS).T
    assert scores.reshape(3, 3) == pytest.approx(expected, abs=1e-5)
    assert teacher.score(QUERIES, DOCUMENTS, (np.empty(0, np.int64),) * 2).shape == (0,)


def test_same_model_as_teacher_changes_nothing(minilm: Encoder, small_dataset: RetrievalDataset) -> None:
    query_ids = list(small_dataset.queries)[:20]
    without = HardNegativeMiner(encoder=minilm, settings=plain(relative_margin=0.1))
    with_teacher = HardNegativeMiner(
        encoder=minilm, settings=plain(relative_margin=0.1, teacher=DEFAULT_BASE_MODEL), device="cpu"
    )
    assert with_teacher.mine(small_dataset, query_ids, count=3) == without.mine(small_dataset, query_ids, count=3)
    assert with_teacher.report["histograms"]["scores"] == "teacher"
    assert with_teacher.report["filtered"] == without.report["filtered"]


def test_margins_use_cross_encoder_scores(
    minilm: Encoder, small_dataset: RetrievalDataset, cross_encoder: Path
) -> None:
    query_ids = list(small_dataset.queries)[:6]
    miner = HardNegativeMiner(encoder=minilm, settings=plain(absolute_margin=0.0, teacher=cross_encoder), device="cpu")
    found = miner.mine(small_dataset, query_ids, count=10)
    teacher = load_teacher(cross_encoder, device="cpu")
    here = (np.zeros(1, np.int64),) * 2
    checked = 0
    for query_id, negatives in found.items():
        query = small_dataset.queries[query_id].text

        def score(identifier: str, query: str = query) -> float:
            return float(teacher.score([query], [small_dataset.memories[identifier].text], here)[0])

        min_positive = min(map(score, small_dataset.relevant(query_id)))
        assert all(score(negative.memory_id) <= min_positive + 1e-5 for negative in negatives)
        checked += len(negatives)
    assert checked
    assert miner.report["filtered"]["above the absolute margin"] > 0
    again = HardNegativeMiner(encoder=minilm, settings=plain(absolute_margin=0.0, teacher=cross_encoder), device="cpu")
    assert again.mine(small_dataset, query_ids, count=10) == found


def test_teacher_without_a_margin_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="no filter uses its scores"):
        plain(teacher=DEFAULT_BASE_MODEL)


def test_invalid_teachers_are_refused(cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_teacher(tmp_path / "none")
    with pytest.raises(ModelError, match="gives 3 scores per pair; use a re-ranker"):
        load_teacher(write_cross_encoder(tmp_path / "classifier", labels=3), device="cpu")
    broken = load_teacher(write_cross_encoder(tmp_path / "broken", broken=True), device="cpu")
    with pytest.raises(ModelError, match="broken' returns NaN or infinite scores"):
        broken.score(QUERIES, DOCUMENTS, EVERY_PAIR)
    odd = tmp_path / "odd"
    shutil.copytree(cross_encoder, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "no-such-architecture"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_teacher(odd, device="cpu")


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 1000))
def test_token_batches_hold_every_pair_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(token_batches(np.array(lengths, np.int64), budget))
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(lengths)))
    in_order = [lengths[place] for batch in batches for place in batch.tolist()]
    assert in_order == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[place] for place in batch.tolist()) * len(batch) <= budget
