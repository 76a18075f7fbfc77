from __future__ import annotations

import numpy as np
import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.learning_curve import build_learning_curve
from llama_index_ace_finetune.pipeline.learning_curve import read_sizes

BASE = np.full(40, 0.5)


def test_rising_curve_suggests_more_data() -> None:
    curve = build_learning_curve({300: BASE + 0.3, 100: BASE + 0.1}, BASE, measure="MRR@10")
    assert [(point.queries, round(point.mean, 6)) for point in curve.points] == [(100, 0.1), (300, 0.3)]
    assert curve.sentence == (
        "From 100 to 300 training queries MRR@10 changes by +0.200 (95% interval +0.200 to +0.200, p < .001): it "
        "still rises, so more data would help."
    )


def test_flat_curve_does_not_suggest_more_data() -> None:
    mixed = BASE + 0.1 + np.tile([0.2, -0.2], 20)
    curve = build_learning_curve({10: BASE + 0.1, 100: BASE + 0.1, 1000: mixed}, BASE, measure="MRR@10")
    assert curve.sentence.startswith("From 100 to 1,000 training queries MRR@10 changes by +0.000 (95% interval -0.0")
    assert curve.sentence.endswith("so more data of this kind may not help.")
    assert curve.points[-1].low < 0.1 < curve.points[-1].high


def test_one_training_size_has_no_conclusion() -> None:
    curve = build_learning_curve({10: BASE}, BASE, measure="MRR@10")
    assert curve.sentence == "One training size says nothing about more data."
    with pytest.raises(AceFinetuneError, match="same queries"):
        build_learning_curve({10: BASE[1:]}, BASE, measure="MRR@10")


def test_training_sizes_are_parsed() -> None:
    assert read_sizes("300, 100,300") == (100, 300)
    with pytest.raises(AceFinetuneError, match="write numbers such as 100,300,1000"):
        read_sizes("100,many")
    with pytest.raises(AceFinetuneError, match="at least 8 are needed"):
        read_sizes("2,100")
