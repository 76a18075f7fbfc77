"""Weights trained for single vectors and MaxSim are selected so that neither loses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_modes import result_of

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection import reranked_dev_set
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, choose_alpha
from llama_index_ace_finetune.training.model_selection.late_interaction import (
    LateInteractionRecord,
    is_as_good,
    rank_candidates,
)
from llama_index_ace_finetune.training.model_selection.reranked_dev_set import MAX_SIM, RerankedDevSet
from llama_index_ace_finetune.training.modes.late_interaction import is_preferred
from llama_index_ace_finetune.training.modes.result import ModeResult, best_result

GROUPS = [str(number) for number in range(4)]
GAIN = PairedDifference(0.2, 0.1, 0.3, 0.01, 4, 0, 0)


def scores(*mrr: float, max_sim: float | None = None) -> DevScores:
    return DevScores(mrr=np.array(mrr), max_sim=None if max_sim is None else np.full(len(mrr), max_sim))


def test_one_standard_error_of_the_paired_difference() -> None:
    # Behind by .4, 0, 0 and 0: a mean of .1, and a standard error of sqrt(.12 * 4 / 3) / 4 = .1.
    best = scores(1.0, 0.5, 0.5, 0.5)
    assert is_as_good(scores(0.6, 0.5, 0.5, 0.5), best, groups=GROUPS)
    # Behind by .1 everywhere: no error, so any loss is one.
    assert not is_as_good(scores(0.9, 0.4, 0.4, 0.4), best, groups=GROUPS)
    assert is_as_good(scores(1.0, 0.9, 0.9, 0.9), best, groups=GROUPS)


def test_max_sim_decides_among_candidates_that_are_as_good_by_single_vectors() -> None:
    best, near, worse = (1.0, 0.5, 0.5, 0.5), (0.6, 0.5, 0.5, 0.5), (0.8, 0.4, 0.4, 0.4)
    plain = {1.0: scores(*best), 0.5: scores(*near), 0.25: scores(*worse)}
    # By single vectors: .625, .525 and .5.
    assert rank_candidates(dict(reversed(plain.items())), groups=GROUPS) == [1.0, 0.5, 0.25]
    found = {1.0: scores(*best, max_sim=0.7), 0.5: scores(*near, max_sim=0.8), 0.25: scores(*worse, max_sim=0.9)}
    assert rank_candidates(found, groups=GROUPS) == [0.5, 1.0, 0.25]
    found[0.5] = scores(*near, max_sim=0.7)
    assert rank_candidates(found, groups=GROUPS) == [1.0, 0.5, 0.25]


def test_candidates_after_one_without_a_gain_are_tried() -> None:
    base = scores(*[0.1] * 12)
    dev = {0.5: base, 1.0: scores(*[0.6] * 12)}
    for descending, expected in ((True, 0.0), (False, 1.0)):
        alpha, *_ = choose_alpha(
            [0.5, 1.0],
            base_scores=base,
            groups=[str(n) for n in range(12)],
            on_dev=dev.__getitem__,
            lost=lambda alpha: 0.0,
            bound=0.0,
            descending=descending,
        )
        assert alpha == expected


def joint(mrr: tuple[float, ...], *, base: float = 0.5, shipped: float = 0.6) -> Selection:
    record = LateInteractionRecord(base=base, shipped=shipped)
    return Selection(alpha=1.0, difference=GAIN, candidates={}, late_interaction=record, scores=scores(*mrr))


def single(mrr: tuple[float, ...]) -> ModeResult:
    plain = Selection(alpha=1.0, difference=GAIN, candidates={}, scores=scores(*mrr))
    return dataclasses.replace(result_of("queries", float(np.mean(mrr)), 1), selection=plain)


def test_joint_weights_ship_if_they_cost_at_most_one_standard_error_and_rerank_better(
    training_data: TrainingData,
) -> None:
    dev = DevSet(index_examples(training_data, training_data.examples[::5][:4]))
    near, worse = (0.6, 0.5, 0.5, 0.5), (0.9, 0.4, 0.4, 0.4)
    other = single((1.0, 0.5, 0.5, 0.5))
    assert is_preferred(joint(near), [other], dev)
    assert not is_preferred(joint(worse), [other], dev)
    assert not is_preferred(joint(near, shipped=0.5), [other], dev)
    assert not is_preferred(other.selection, [], dev)
    assert not is_preferred(None, [other], None)
    full = dataclasses.replace(result_of("full", 0.525, 1), selection=joint(near), preferred=True)
    assert best_result([other, full]) is full
    assert best_result([other, dataclasses.replace(full, preferred=False)]) is other


@pytest.fixture(scope="module")
def encoder(one_layer: str) -> Encoder:
    return Encoder.load(one_layer, settings=EncoderSettings(device="cpu", precision="float32"))


@pytest.mark.parametrize("dimension", [None, 8])
def test_reranked_scores_equal_a_brute_force_maxsim(
    encoder: Encoder, training_data: TrainingData, dimension: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranked_dev_set, "_CHUNK", 5)
    monkeypatch.setattr(reranked_dev_set, "CANDIDATES", 6)  # of 12 memories
    examples = index_examples(training_data, training_data.examples[::5])
    # The first query is itself the memory in row 3, which is then no hit.
    examples = dataclasses.replace(examples, own=np.array([3, *[-1] * (len(examples.queries) - 1)]))
    projection = None if dimension is None else np.eye(384, dtype=np.float32)[:, :dimension]
    found = RerankedDevSet(examples, lambda: projection).score(encoder)
    cosines = encoder.encode_queries(examples.queries) @ encoder.encode_documents(examples.corpus).T
    cosines[0, 3] = -2
    tokens = TokenEncoder(encoder, projection)
    queries, documents = tokens.encode_queries(examples.queries), tokens.encode_documents(examples.corpus)
    expected = []
    for number, query in enumerate(examples.relevant):
        first = np.argsort(-cosines[number], kind="stable")[:6]
        max_sim = [(queries[number] @ documents[row].T).max(axis=1).mean().round(6) for row in first]
        ranked = first[np.argsort(-np.array(max_sim), kind="stable")].tolist()
        ranks = [ranked.index(row) + 1 for row in query if row in ranked]
        expected.append(1 / min(ranks) if ranks else 0.0)
    assert found.max_sim is not None
    assert found.max_sim.tolist() == pytest.approx(expected)
    assert found.means[MAX_SIM] == pytest.approx(np.mean(expected))
    assert np.array_equal(found.mrr, DevSet(examples).score(encoder).mrr)


def test_projection_is_read_at_each_evaluation(encoder: Encoder, training_data: TrainingData) -> None:
    matrix = torch.zeros(384, 4)
    dev = RerankedDevSet(index_examples(training_data, training_data.examples[::5]), lambda: matrix.numpy())
    before = dev.score(encoder).max_sim
    matrix.copy_(torch.eye(384)[:, :4])
    after = dev.score(encoder).max_sim
    assert before is not None
    assert after is not None
    assert not np.array_equal(before, after)
