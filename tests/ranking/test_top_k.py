from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.ranking.top_k import top_k


def by_sorting(scores: np.ndarray, k: int, floor: float) -> list[int]:
    return sorted(np.flatnonzero(scores > floor).tolist(), key=lambda i: (-scores[i], i))[:k]


def test_by_hand() -> None:
    assert top_k(np.array([0.0, 2.0, 1.0, 2.0, 0.0]), 3, 0.0).tolist() == [1, 3, 2]
    assert top_k(np.array([0.0, 2.0, 1.0, 2.0, 0.0]), 9, 0.0).tolist() == [1, 3, 2]
    assert top_k(np.array([-np.inf, -2.0, 0.0]), 9, -np.inf).tolist() == [2, 1]
    assert top_k(np.zeros(0), 3, 0.0).tolist() == []
    assert top_k(np.zeros(1000), 3, 0.0).tolist() == []


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 700), st.integers(1, 12), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_equals_sorting(seed: int, n: int, k: int, filled: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(n) < filled, rng.integers(1, 8, n) / 2, 0.0)
    assert top_k(scores, k, 0.0).tolist() == by_sorting(scores, k, 0.0)
    signed = np.where(rng.random(n) < filled, rng.integers(-8, 8, n) / 2, -np.inf)
    assert top_k(signed, k, -np.inf).tolist() == by_sorting(signed, k, -np.inf)
