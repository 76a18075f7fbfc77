from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import (
    copy_weights,
    load_interpolated,
    select_weights,
)


@pytest.fixture(scope="module")
def encoder(minilm: Encoder) -> Encoder:
    """A copy whose weights may be changed."""
    return Encoder(copy.deepcopy(minilm.model), name="copy", fingerprint="copy", settings=minilm.settings)


@pytest.fixture(scope="module")
def base(encoder: Encoder) -> dict[str, Tensor]:
    return copy_weights(encoder)


@pytest.fixture(scope="module")
def noisy(base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base weights with noise, which rank worse than the base."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        if torch.is_floating_point(weight)
        else weight
        for name, weight in base.items()
    }


@pytest.fixture(scope="module")
def dev(training_data: TrainingData) -> DevSet:
    # One short query per memory.
    return DevSet(index_examples(training_data, training_data.examples[::5]))


def has_weights(encoder: Encoder, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, weights[name]) for name, weight in encoder.model.state_dict().items())


def test_copies_are_detached_from_the_model(encoder: Encoder, base: dict[str, Tensor]) -> None:
    load_interpolated(encoder, base=base, tuned={n: torch.zeros_like(w) for n, w in base.items()}, alpha=1)
    assert not has_weights(encoder, base)
    assert any(weight.any() for weight in base.values())
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    assert has_weights(encoder, base)


def test_alpha_zero_and_one_are_exact_and_others_interpolate(
    encoder: Encoder, base: dict[str, Tensor], noisy: dict[str, Tensor]
) -> None:
    load_interpolated(encoder, base=base, tuned=noisy, alpha=1.0)
    assert has_weights(encoder, noisy)
    load_interpolated(encoder, base=base, tuned=noisy, alpha=0.0)
    assert has_weights(encoder, base)
    load_interpolated(encoder, base=base, tuned=noisy, alpha=0.25)
    for name, weight in encoder.model.state_dict().items():
        assert torch.allclose(weight, 0.75 * base[name] + 0.25 * noisy[name], atol=1e-5)


def test_base_ships_if_tuning_made_it_worse(
    encoder: Encoder, base: dict[str, Tensor], noisy: dict[str, Tensor], dev: DevSet
) -> None:
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    base_scores = dev.score(encoder)
    selection = select_weights(
        encoder, base=base, tuned=noisy, base_scores=base_scores, dev=dev, alphas=(0.9, 1.0, 1.0)
    )
    assert selection.alpha == 0
    assert not selection.ships_tuned
    assert selection.difference.mean < 0
    assert has_weights(encoder, base)
    assert list(selection.candidates) == [0.0, 0.9, 1.0]
    assert selection.candidates[0.0] == base_scores.means
    assert selection.ranked_memories == len(dev.examples.corpus)
    record = json.loads(json.dumps(selection.to_dict()))
    assert record["shipped"] == "base"
    assert record["share"] == 0
    assert set(record["dev_candidates"]) == {"0.0", "0.9", "1.0"}
    assert record["dev_difference_mrr@10"]["losses"] > 0


def test_tuned_weights_ship_if_they_are_better(
    encoder: Encoder, base: dict[str, Tensor], noisy: dict[str, Tensor], dev: DevSet
) -> None:
    load_interpolated(encoder, base=noisy, tuned=noisy, alpha=0)
    worse = dev.score(encoder)
    selection = select_weights(encoder, base=noisy, tuned=base, base_scores=worse, dev=dev, alphas=(1.0,))
    assert selection.alpha == 1.0
    assert selection.difference.low > 0
    assert selection.to_dict()["shipped"] == "finetuned"
    assert has_weights(encoder, base)


def test_alpha_that_wins_on_the_pool_must_win_on_all_of_dev(
    encoder: Encoder, base: dict[str, Tensor], noisy: dict[str, Tensor], dev: DevSet
) -> None:
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    whole = dev.score(encoder)
    # The pool holds one query and only its positive, so any model ranks it first.
    row = int(dev.examples.relevant[0][0])
    pool = DevSet(
        dataclasses.replace(
            dev.examples,
            query_ids=dev.examples.query_ids[:1],
            queries=dev.examples.queries[:1],
            corpus_ids=dev.examples.corpus_ids[row : row + 1],
            corpus=dev.examples.corpus[row : row + 1],
            relevant=(np.array([0]),),
            negatives=(np.empty(0, np.int64),),
        )
    )
    selection = select_weights(encoder, base=base, tuned=noisy, base_scores=whole, dev=dev, alphas=(1.0,), pool=pool)
    assert selection.candidates[1.0]["MRR@10"] == selection.candidates[0.0]["MRR@10"] == 1
    assert selection.ranked_memories == 1
    assert selection.difference.mean < 0
    assert selection.alpha == 0
    assert has_weights(encoder, base)


def test_equal_weights_ship_the_base(encoder: Encoder, base: dict[str, Tensor], dev: DevSet) -> None:
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    scores = dev.score(encoder)
    selection = select_weights(encoder, base=base, tuned=base, base_scores=scores, dev=dev, alphas=(1.0,))
    assert selection.alpha == 0
    assert (selection.difference.mean, selection.difference.low, selection.difference.high) == (0, 0, 0)


def test_dev_scores_equal_a_full_ranking(minilm: Encoder, dev: DevSet) -> None:
    scores = dev.score(minilm)
    cosines = minilm.encode_queries(dev.examples.queries) @ minilm.encode_documents(dev.examples.corpus).T
    ranks = [
        1 + int((row > row[positives[0]]).sum()) for row, positives in zip(cosines, dev.examples.relevant, strict=True)
    ]
    assert scores.mrr.tolist() == pytest.approx([1 / rank if rank <= 10 else 0 for rank in ranks])
    assert scores.means["MRR@10"] == pytest.approx(float(scores.mrr.mean()))
    assert scores.means["Success@1"] == pytest.approx(float(np.mean([rank == 1 for rank in ranks])))
    assert dev.groups == [dev.examples.corpus_ids[int(rows[0])] for rows in dev.examples.relevant]


def test_gain_on_few_queries_is_not_significant(
    encoder: Encoder, base: dict[str, Tensor], noisy: dict[str, Tensor], training_data: TrainingData
) -> None:
    # Three queries that all gain: the interval is above zero, but three queries cannot reach significance.
    three = DevSet(index_examples(training_data, training_data.examples[:15:5]))
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    scores = three.score(encoder)
    worst = dataclasses.replace(scores, mrr=np.zeros(3))
    selection = select_weights(encoder, base=noisy, tuned=base, base_scores=worst, dev=three, alphas=(1.0,))
    assert selection.difference.low > 0
    assert selection.difference.p_value > 0.05
    assert selection.alpha == 0
