from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.loop.budget import StepPlan
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback
from llama_index_ace_finetune.training.losses.full_corpus import full_corpus_loss, pad_rows
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.modes.query_encoder import (
    FixedDocumentsDevSet,
    QueryCollator,
    QueryEncoderLoss,
    QueryEncoderSettings,
    apply_adapter,
    train_query_encoder,
)

SETTINGS = QueryEncoderSettings(epochs=2, batch_size=20, learning_rate=1e-4, budget_minutes=None)


@pytest.fixture(scope="module")
def base(one_layer: str) -> Encoder:
    return Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))


@pytest.fixture(scope="module")
def train(training_data: TrainingData) -> IndexedExamples:
    return index_examples(training_data, [e for e in training_data.examples if e.split == "train"])


@pytest.fixture(scope="module")
def vectors(base: Encoder, train: IndexedExamples) -> NDArray[np.float32]:
    return base.encode_documents(train.corpus)


@pytest.fixture(scope="module")
def matrix(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    d = vectors.shape[1]
    return np.asarray(np.eye(d) + 0.02 * np.random.default_rng(0).normal(size=(d, d)), np.float32)


def fresh_encoder(base: Encoder, **settings: object) -> Encoder:
    """An encoder whose weights the test may change."""
    return Encoder.load(base.name, settings=EncoderSettings(device="cpu", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("near", [None, 99])
def test_loss_compares_the_batch_with_the_corpus(
    base: Encoder,
    train: IndexedExamples,
    vectors: NDArray[np.float32],
    matrix: NDArray[np.float32],
    adapted: bool,
    near: int | None,
) -> None:
    used = matrix if adapted else None
    numbers = [30, 3, 11]
    batch = QueryCollator(base.model.preprocess, train, "")([{"example": number} for number in numbers])
    rows = pad_rows(train.relevant)
    every = torch.arange(len(vectors)).repeat(len(train.queries), 1)
    loss = QueryEncoderLoss(
        base.model, vectors, rows, near=every if near else None, matrix=used, temperature=0.05, packed=False
    )
    features = {name.removeprefix("query_"): value for name, value in batch.items() if name.startswith("query_")}
    with torch.no_grad():
        found = loss([features], batch["label"])
    queries = apply_adapter(base.encode_queries([train.queries[number] for number in numbers]), used)
    expected = full_corpus_loss(torch.from_numpy(queries), torch.from_numpy(vectors), rows[numbers], temperature=0.05)
    assert float(found) == pytest.approx(float(expected), abs=1e-4)
    assert batch["label"].tolist() == numbers


class FixedVectors(nn.Module):
    """A model whose vectors are given."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}


def test_matrix_is_applied_in_float32_where_the_encoder_is_trained_in_bfloat16() -> None:
    rng = np.random.default_rng(0)
    documents, queries = (unit_rows(rng.standard_normal((count, 16)).astype(np.float32)) for count in (40, 5))
    rows, labels = torch.arange(5)[:, None], torch.arange(5)
    matrix = rng.standard_normal((16, 16)).astype(np.float32)
    loss = QueryEncoderLoss(FixedVectors(), documents, rows, near=None, matrix=matrix, temperature=0.05, packed=False)
    features = [{"vectors": torch.from_numpy(queries)}]
    expected = loss(features, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(features, labels), expected)


def test_corpus_is_not_in_the_state_dict(base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32]) -> None:
    loss = QueryEncoderLoss(
        base.model, vectors, pad_rows(train.relevant), near=None, matrix=None, temperature=0.05, packed=False
    )
    assert {name.partition(".")[0] for name in loss.state_dict()} == {"model"}
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == {"model"}


def test_collator_prepends_the_prompt(base: Encoder, train: IndexedExamples) -> None:
    batch = QueryCollator(base.model.preprocess, train, "query: ")([{"example": 0}])
    expected = base.model.preprocess(["query: " + train.queries[0]])
    assert torch.equal(batch["query_input_ids"], expected["input_ids"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_improves_mrr(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32], precision: str
) -> None:
    encoder = fresh_encoder(base, precision=precision)
    dev = FixedDocumentsDevSet(train, document_vectors=vectors)
    before = dev.score(encoder)
    callback = DevEvaluationCallback(encoder, dev, base_scores=before, eval_steps=None, patience=None)
    steps, epochs = train_query_encoder(encoder, train, vectors, settings=SETTINGS, callbacks=[callback])
    assert (steps, epochs) == (4, 2.0)
    losses = [row["loss"] for row in callback.history if "loss" in row]
    assert losses[-1] < losses[0]
    scores = [row["MRR@10"] for row in callback.history if "MRR@10" in row]
    assert scores[0] == before.means["MRR@10"]
    assert scores[-1] > scores[0]
    assert scores[-1] == pytest.approx(dev.score(encoder).means["MRR@10"])


def test_encoding_after_training_uses_the_current_weights(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32]
) -> None:
    encoder = fresh_encoder(base, precision="bfloat16")
    before = encoder.encode_queries(train.queries)
    train_query_encoder(encoder, train, vectors, settings=SETTINGS)
    # Packed copies of the weights from before training must be discarded.
    after, truth = encoder.encode_queries(train.queries), encoder.model.encode_query(list(train.queries))
    assert np.linalg.norm(after - truth) < 0.2 * np.linalg.norm(after - before)


def test_large_corpus_is_compared_in_parts(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32], matrix: NDArray[np.float32]
) -> None:
    encoder = fresh_encoder(base)
    dev = FixedDocumentsDevSet(train, document_vectors=vectors, matrix=matrix)
    before = dev.score(encoder).means["MRR@10"]
    train_query_encoder(encoder, train, vectors, settings=replace(SETTINGS, whole_corpus=0, nearest=2), matrix=matrix)
    assert dev.score(encoder).means["MRR@10"] > before
    assert not encoder.model.training


def test_dev_scores_over_fixed_documents_equal_those_of_the_base(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32], matrix: NDArray[np.float32]
) -> None:
    fixed = FixedDocumentsDevSet(train, document_vectors=vectors)
    ours, theirs = fixed.score(base), DevSet(train).score(base)
    assert ours.means == theirs.means
    np.testing.assert_array_equal(ours.rankings, theirs.rankings)
    adapted = FixedDocumentsDevSet(train, document_vectors=vectors, matrix=matrix).score(base)
    expected = apply_adapter(base.encode_queries(train.queries), matrix) @ vectors.T
    np.testing.assert_array_equal(adapted.rankings[:, 0], expected.argmax(axis=1))


def test_adapted_queries_are_unit_vectors() -> None:
    adapted = apply_adapter(np.array([[0.6, 0.8]], np.float32), np.array([[0, 2], [2, 0]], np.float32))
    np.testing.assert_allclose(adapted, [[0.8, 0.6]], atol=1e-6)
    queries = nn.functional.normalize(torch.randn(3, 4)).numpy()
    assert apply_adapter(queries, None) is queries


def test_missing_document_vectors_are_refused(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32]
) -> None:
    with pytest.raises(ValueError, match="11 vectors of 12 documents"):
        train_query_encoder(base, train, vectors[:-1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("temperature", 0.0),
        ("budget_minutes", 0.0),
        ("warmup_steps", -1),
        ("nearest", 0),
        ("whole_corpus", -1),
    ],
)
def test_bad_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(AceFinetuneError, match=f"setting {name} is"):
        replace(SETTINGS, **{name: value})  # type: ignore[arg-type]


def test_loss_buffers_are_on_the_device_before_timing(
    base: Encoder, train: IndexedExamples, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def moved(self: QueryEncoderLoss, *_: object) -> QueryEncoderLoss:
        order.append("moved")
        return self

    def timed(*_: object, **__: object) -> StepPlan:
        order.append("timed")
        return StepPlan(1, 1.0)

    monkeypatch.setattr(QueryEncoderLoss, "to", moved)
    monkeypatch.setattr("llama_index_ace_finetune.training.loop.fit.plan_steps", timed)
    train_query_encoder(fresh_encoder(base, precision="float32"), train, vectors, settings=SETTINGS)
    assert order[:2] == ["moved", "timed"]
