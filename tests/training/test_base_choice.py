from __future__ import annotations

import numpy as np
import pytest

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.base_choice import cheapest_near_best, choose_base
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet


def test_choice_by_hand() -> None:
    # The first is best. The second is .25 below it on average, with a standard error of 1/4 * sqrt(.75 * 4 / 3) = .25.
    values = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0.5]])
    groups = ["a", "b", "c", "d"]
    chosen, behind, errors = cheapest_near_best(values, [(3072, 9), (1536, 9), (512, 1)], groups=groups)
    assert behind == pytest.approx([0, 0.25, 0.875])
    assert errors[:2] == pytest.approx([0, 0.25])
    assert chosen == 1
    # One group has no standard error that could excuse a difference of one query; of equals, the smaller is taken.
    assert cheapest_near_best(values, [(1536, 9), (1536, 8), (512, 1)], groups=groups)[0] == 1
    assert cheapest_near_best(values, [(1536, 9), (3072, 8), (9999, 1)], groups=groups)[0] == 0
    assert cheapest_near_best(values[[0, 0]], [(8, 2), (8, 1)], groups=groups)[0] == 1


def test_each_base_is_measured_on_dev(minilm: Encoder, one_layer: str, training_data: TrainingData) -> None:
    dev = DevSet(index_examples(training_data, training_data.examples_of("dev")))
    small = Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))
    choice = choose_base([("whole", lambda: minilm), ("first layer", lambda: small)], dev)
    whole, first = choice.scores
    assert (whole.mrr, first.mrr) == pytest.approx((dev.score(minilm).mrr.mean(), dev.score(small).mrr.mean()))
    assert (whole.bytes_per_memory, first.bytes_per_memory) == (1536, 1536)
    assert whole.parameters > first.parameters
    assert whole.query_ms > 0
    best = max(choice.scores, key=lambda score: score.mrr)
    assert first.behind == pytest.approx(best.mrr - first.mrr)
    assert choice.chosen == int(first.behind <= first.standard_error)
    assert choice.to_dict()["chosen"] == choice.scores[choice.chosen].name
    assert (choice.queries, choice.memories) == (20, 12)
