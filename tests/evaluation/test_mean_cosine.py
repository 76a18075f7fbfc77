from __future__ import annotations

import numpy as np
import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.mean_cosine import MeanCosine
from llama_index_ace_finetune.evaluation.metrics.qrels import Judgements

QUERIES = np.array([[1, 0], [0, 2]], np.float32)
DOCUMENTS = np.array([[3, 0], [1, 1], [0, -1], [0, 0]], np.float32)


def test_by_hand() -> None:
    values = MeanCosine().per_query(QUERIES, DOCUMENTS, Judgements.of([[0, 1], [2]]))
    assert values.tolist() == pytest.approx([(1 + 0.5**0.5) / 2, -1.0])
    assert str(MeanCosine()) == "MeanCosine"


@pytest.mark.parametrize(
    ("relevant", "sentence"),
    [
        ([[0], []], "1 of them without a right answer"),
        ([[0]], "do not fit 2 query vectors"),
        ([[0], [4]], "names row 4, but the corpus has 4 vectors"),
    ],
)
def test_what_has_no_cosine_is_told(relevant: list[list[int]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        MeanCosine().per_query(QUERIES, DOCUMENTS, Judgements.of(relevant))


def test_a_zero_vector_counts_nothing() -> None:
    assert MeanCosine().per_query(QUERIES, DOCUMENTS, Judgements.of([[0, 3], [3]])).tolist() == [0.5, 0.0]


def test_nan_is_told() -> None:
    with pytest.raises(AceFinetuneError, match="NaN"):
        MeanCosine().per_query(QUERIES * np.float32(np.nan), DOCUMENTS, Judgements.of([[0], [1]]))
