from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.teacher import EmbeddingTeacher
from llama_index_ace_finetune.training.config import DistillationName, TrainingConfig
from llama_index_ace_finetune.training.data.batches import NEGATIVE, POSITIVE, BatchCollator
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.data.teacher_scores import teacher_scores
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.losses.distillation import DISTILLATION_LOSSES, listwise_distillation, margin_mse
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss, masked_ranking_loss


def random_scores(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cosines, teacher scores with missing (NaN) values, and targets, all [4, 6]."""
    generator = torch.Generator().manual_seed(seed)
    cosines, teacher = (torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[torch.rand(4, 6, generator=generator) < 0.4] = math.nan
    return cosines, teacher, torch.randint(-1, 2, (4, 6), generator=generator)


def softmax(scores: list[float], temperature: float) -> list[float]:
    powers = [math.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=50)
def test_listwise_distillation_equals_a_loop_over_queries(seed: int) -> None:
    cosines, teacher, _ = random_scores(seed)
    terms = []
    for ours, theirs in zip(cosines.tolist(), teacher.tolist(), strict=True):
        known = [column for column, score in enumerate(theirs) if not math.isnan(score)]
        if len(known) > 1:
            p, q = softmax([theirs[k] for k in known], 0.3), softmax([ours[k] for k in known], 0.3)
            terms.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    leaf = cosines.clone().requires_grad_()
    loss = listwise_distillation(leaf, teacher, torch.zeros_like(teacher, dtype=torch.int8), temperature=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(sum(terms) / max(1, len(terms)), abs=1e-5)
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert not leaf.grad[torch.isnan(teacher)].any()


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=50)
def test_margin_mse_equals_a_loop_over_pairs(seed: int) -> None:
    cosines, teacher, targets = random_scores(seed)
    terms = [
        (float(cosines[q, p] - cosines[q, n]) - float(teacher[q, p] - teacher[q, n])) ** 2
        for q in range(4)
        for p in range(6)
        for n in range(6)
        if targets[q, p] == POSITIVE and targets[q, n] == NEGATIVE and not torch.isnan(teacher[q, [p, n]]).any()
    ]
    leaf = cosines.clone().requires_grad_()
    loss = margin_mse(leaf, teacher, targets, temperature=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(sum(terms) / max(1, len(terms)), abs=1e-5)
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_teacher_scores_reach_the_loss(minilm: Encoder, training_data: TrainingData) -> None:
    examples = index_examples(training_data, [e for e in training_data.examples if e.split == "train"])
    scores = teacher_scores(EmbeddingTeacher(minilm), examples, cache=None)
    queries = minilm.encode_queries(examples.queries[:2])
    documents = minilm.encode_documents(examples.corpus)
    for number in range(2):
        rows = {*examples.relevant[number].tolist(), *examples.negatives[number].tolist()}
        assert set(scores[number]) == rows
        assert all(
            scores[number][row] == pytest.approx(float(queries[number] @ documents[row]), abs=1e-3) for row in rows
        )
    model = minilm.model
    batches = BatchCollator(model.preprocess, examples, 2, "", "", teacher=scores)
    batch = batches([{"example": 0}, {"example": 9}])
    targets, teacher = batch["label"]
    assert torch.isnan(teacher).any()
    blocks = [
        {k.removeprefix(f"{r}_"): v for k, v in batch.items() if k.startswith(f"{r}_")} for r in ("query", "document")
    ]
    for distillation in DISTILLATION_LOSSES:
        loss = MaskedRankingLoss(model, temperature=0.05, distillation=distillation)
        chosen, _ = batches.select([0, 9])
        cosines = torch.from_numpy(
            minilm.encode_queries([examples.queries[0], examples.queries[9]]) @ documents[chosen].T
        )
        # The teacher is the model itself, so the distillation term is zero.
        ranking = masked_ranking_loss(cosines, targets.to(torch.int8), temperature=0.05)
        assert loss(blocks, batch["label"]).item() == pytest.approx(ranking.item(), abs=1e-3)


def test_every_distillation_setting_has_a_loss() -> None:
    assert tuple(DISTILLATION_LOSSES) == get_args(DistillationName)


def test_training_with_a_teacher(training_data: TrainingData, tmp_path: Path) -> None:
    data = dataclasses.replace(training_data, examples=training_data.examples[:16])
    config = TrainingConfig(
        output_dir=str(tmp_path / "model"), mode="full", epochs=1, batch_size=8, teacher=DEFAULT_BASE_MODEL,
        distillation="margin_mse", max_seq_length=32, precision="float32", device="cpu",
    )  # fmt: skip
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(data)
    tuner.initialize_model()
    assert tuner.train()["total_steps"] == 2
    losses = [row["loss"] for row in tuner.history if "loss" in row]
    assert np.isfinite(losses).all()


def test_logits_are_scaled_to_zero_to_one(training_data: TrainingData) -> None:
    class Logits:
        def score(
            self, queries: object, documents: object, pairs: tuple[np.ndarray, np.ndarray], *, cache: object
        ) -> np.ndarray:
            return np.linspace(-9, 11, len(pairs[0]), dtype=np.float32)

    examples = index_examples(training_data, training_data.examples[:8])
    values = [score for of_query in teacher_scores(Logits(), examples, cache=None) for score in of_query.values()]
    assert (min(values), max(values)) == (0, 1)
