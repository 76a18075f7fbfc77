"""Weights of synthetic queries in the losses and the linear adapter, and the decision on dev about them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.losses.full_corpus import full_corpus_loss
from llama_index_ace_finetune.training.losses.masked_ranking import (
    MaskedRankingLoss,
    masked_ranking_loss,
    symmetric_ranking_loss,
)
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.modes import synthetic_queries
from llama_index_ace_finetune.training.modes.linear_adapter import (
    LinearAdapterSettings,
    fit_query_adapter,
    ridge_matrix,
)
from llama_index_ace_finetune.training.modes.synthetic_queries import choose_synthetic

COSINES = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.5, 0.4], [0.6, 0.2, 0.1]])
TARGETS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.int8)
WEIGHTS = torch.tensor([1.0, 0.25, 0.25])


def of_query(row: int, positive: int) -> float:
    scaled = COSINES[row].double() / 0.5
    return float(torch.logsumexp(scaled, 0) - scaled[positive])


def test_weighted_mean_by_hand() -> None:
    expected = (of_query(0, 0) + 0.25 * of_query(1, 1)) / 1.25  # the third has no positive
    weighted = masked_ranking_loss(COSINES, TARGETS, temperature=0.5, weights=WEIGHTS)
    assert weighted.item() == pytest.approx(expected, rel=1e-5)
    corpus = full_corpus_loss(COSINES, torch.eye(3), torch.tensor([[0], [1], [-1]]), temperature=0.5, weights=WEIGHTS)
    assert corpus.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_corpus_loss_equals_that_of_the_batch_loss() -> None:
    gradients = []
    for loss in (
        lambda one: masked_ranking_loss(one, TARGETS, temperature=0.5, weights=WEIGHTS),
        lambda one: full_corpus_loss(
            one, torch.eye(3), torch.tensor([[0], [1], [-1]]), temperature=0.5, weights=WEIGHTS
        ),
    ):
        queries = COSINES.clone().requires_grad_()
        loss(queries).backward()
        assert queries.grad is not None
        gradients.append(queries.grad)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-6


def test_equal_weights_are_no_weights() -> None:
    for loss in (masked_ranking_loss, symmetric_ranking_loss):
        plain = loss(COSINES, TARGETS, temperature=0.5)
        assert loss(COSINES, TARGETS, temperature=0.5, weights=torch.full((3,), 0.5)).item() == pytest.approx(
            plain.item(), rel=1e-5
        )


def test_ridge_with_a_weight_of_2_is_the_query_twice() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((5, 4)))
    targets = torch.from_numpy(rng.standard_normal((5, 4)))
    root = torch.tensor([1.0, 1, 1, 1, 2]).sqrt()[:, None]
    twice = torch.cat([vectors, vectors[4:]]), torch.cat([targets, targets[4:]])
    assert torch.allclose(ridge_matrix(vectors * root, targets * root, 3.0), ridge_matrix(*twice, 3.0), atol=1e-5)


def test_adapter_follows_the_heavier_queries() -> None:
    """Half of the queries want one direction, half the opposite; the weights decide."""
    documents = np.eye(2, dtype=np.float32)
    queries = np.full((40, 2), 0.5**0.5, np.float32)
    relevant = [np.array([n % 2]) for n in range(40)]
    ask = {"dev_queries": queries[:4], "dev_relevant": [np.array([0])] * 4}
    settings = LinearAdapterSettings(l2_weights=(0.01,), ridges=(), steps=30)
    for heavy in (0, 1):
        weights = np.where(np.arange(40) % 2 == heavy, 1.0, 0.1).astype(np.float32)
        found = fit_query_adapter(queries, documents, relevant, settings=settings, weights=weights, **ask)  # type: ignore[arg-type]
        assert found.candidates[1].kind == "trained"
        assert found.candidates[1].dev_mrr == (1.0 if heavy == 0 else 0.5)


def examples(data: TrainingData, synthetic: set[int]) -> IndexedExamples:
    """The train examples of the fixture, some of them marked as synthetic."""
    marked = [
        dataclasses.replace(one, metadata={"synthetic": "offline"} if number in synthetic else {})
        for number, one in enumerate(data.examples_of("train"))
    ]
    return index_examples(data, marked)


def test_weights_reach_the_loss_of_a_batch(training_data: TrainingData, minilm: Encoder) -> None:
    found = examples(training_data, {1})
    weights = query_weights(found, 0.25)
    assert weights is not None
    assert weights.tolist() == [1.0, 0.25, *[1.0] * (len(found.queries) - 2)]
    batches = BatchCollator(minilm.model.preprocess, found, 1, "", "", weights=weights)
    batch = batches([{"example": 0}, {"example": 1}])
    blocks = [
        {k.removeprefix(f"{r}_"): v for k, v in batch.items() if k.startswith(f"{r}_")} for r in ("query", "document")
    ]
    assert blocks[0]["loss_weight"].tolist() == [1.0, 0.25]
    loss = MaskedRankingLoss(minilm.model, temperature=0.05)
    with torch.no_grad():
        weighted = loss(blocks, batch["label"])
        del blocks[0]["loss_weight"]
        plain = loss(blocks, batch["label"])
        queries, documents = (minilm.model(dict(block))["sentence_embedding"] for block in blocks)
        expected = masked_ranking_loss(
            queries @ documents.T, batch["label"], temperature=0.05, weights=torch.tensor([1.0, 0.25])
        )
    assert weighted.item() == pytest.approx(expected.item(), rel=1e-3)
    assert weighted.item() != pytest.approx(plain.item(), rel=1e-3)


def test_queries_of_one_kind_have_no_weights(training_data: TrainingData) -> None:
    count = len(training_data.examples_of("train"))
    assert query_weights(examples(training_data, set()), 0.5) is None
    assert query_weights(examples(training_data, set(range(count))), 0.5) is None
    assert query_weights(examples(training_data, {0}), 1.0) is None


class TestChoice:
    def context(self, data: TrainingData, encoder: Encoder, synthetic: set[int], dev: bool = True) -> TrainingContext:
        held = DevSet(index_examples(data, data.examples_of("dev"))) if dev else None
        return TrainingContext(encoder, examples(data, synthetic), held, TrainingConfig())

    def test_nothing_to_choose(self, training_data: TrainingData, minilm: Encoder) -> None:
        context = self.context(training_data, minilm, set())
        assert choose_synthetic(context, at_least=8) == (context, None)

    def test_left_out_without_dev_queries(self, training_data: TrainingData, minilm: Encoder) -> None:
        context, choice = choose_synthetic(self.context(training_data, minilm, {3, 4}, dev=False), at_least=8)
        assert choice is not None
        assert (choice.used, choice.with_them) == (False, None)
        assert len(context.examples.queries) == 38

    def test_used_where_the_others_are_too_few(self, training_data: TrainingData, minilm: Encoder) -> None:
        whole = self.context(training_data, minilm, set(range(3, 40)))
        context, choice = choose_synthetic(whole, at_least=8)
        assert choice is not None
        assert (context, choice.used, choice.count) == (whole, True, 37)

    @pytest.mark.parametrize(("gain", "used"), [(0.0, False), (0.01, False), (0.4, True)])
    def test_dev_decides_by_one_standard_error(
        self, training_data: TrainingData, minilm: Encoder, monkeypatch: pytest.MonkeyPatch, gain: float, used: bool
    ) -> None:
        """Half of the dev memories gain twice `gain`, the others lose .05: the error of the mean is about .03."""
        asked: list[int] = []

        def mrr(context: TrainingContext, rows: np.ndarray) -> np.ndarray:
            asked.append(len(rows))
            assert context.dev is not None
            groups = np.unique(context.dev.groups, return_inverse=True)[1]
            better = np.where(groups % 2 == 0, 2 * gain + 0.05, -0.05)
            return 0.5 + better if len(rows) == 40 else np.full(len(groups), 0.5)

        monkeypatch.setattr(synthetic_queries, "_dev_mrr", mrr)
        before = self.context(training_data, minilm, {3, 4})
        vectors = before.query_vectors
        context, choice = choose_synthetic(before, at_least=8)
        assert choice is not None
        assert (choice.used, asked) == (used, [40, 38])
        assert choice.with_them == pytest.approx(0.5 + gain)
        if used:
            assert context is before
            return
        assert context.examples.synthetic is None
        assert len(context.examples.queries) == len(context.examples.relevant) == len(context.examples.negatives) == 38
        kept = [row for row in range(40) if row not in (3, 4)]
        assert (context.query_vectors == vectors[kept]).all()
        assert context.examples.queries == tuple(before.examples.queries[row] for row in kept)

    @pytest.mark.slow
    def test_real_candidates(self, training_data: TrainingData, minilm: Encoder) -> None:
        """Synthetic queries that point to wrong memories are left out."""
        data = training_data
        train = data.examples_of("train")
        wrong = [
            dataclasses.replace(
                one, query_id=f"s{n}", query=f"{one.query} {n}", positive_ids=train[(n + 17) % 40].positive_ids,
                metadata={"synthetic": "offline"},
            )
            for n, one in enumerate(train)
        ]  # fmt: skip
        dev = DevSet(index_examples(data, data.examples_of("dev")))
        context = TrainingContext(minilm, index_examples(data, [*train, *wrong]), dev, TrainingConfig())
        after, choice = choose_synthetic(context, at_least=8)
        assert choice is not None
        assert not choice.used
        assert len(after.examples.queries) == 40
        assert "40 synthetic queries left out: a linear adapter has dev MRR@10 " in str(choice)
