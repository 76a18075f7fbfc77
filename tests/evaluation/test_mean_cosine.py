from __future__ import annotations

import numpy as np
import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.mean_cosine import MeanCosine
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels

QUERIES = np.array([[1, 0], [0, 2]], np.float32)
DOCUMENTS = np.array([[3, 0], [1, 1], [0, -1], [0, 0]], np.float32)


def test_by_hand() -> None:
    values = MeanCosine().per_query(QUERIES, DOCUMENTS, Qrels.of([[0, 1], [2]]))
    assert values.tolist() == pytest.approx([(1 + 0.5**0.5) / 2, -1.0])
    assert str(MeanCosine()) == "MeanCosine"


@pytest.mark.parametrize(
    ("relevant", "sentence"),
    [
        ([[0], []], "1 of them without a relevant document"),
        ([[0]], "do not fit 2 query vectors"),
        ([[0], [4]], "name row 4, but the corpus has 4 vectors"),
    ],
)
def test_invalid_qrels_are_refused(relevant: list[list[int]], sentence: str) -> None:
    with pytest.raises(AceFinetuneError, match=sentence):
        MeanCosine().per_query(QUERIES, DOCUMENTS, Qrels.of(relevant))


def test_zero_vector_has_cosine_0() -> None:
    assert MeanCosine().per_query(QUERIES, DOCUMENTS, Qrels.of([[0, 3], [3]])).tolist() == [0.5, 0.0]


def test_nan_is_refused() -> None:
    with pytest.raises(AceFinetuneError, match="NaN"):
        MeanCosine().per_query(QUERIES * np.float32(np.nan), DOCUMENTS, Qrels.of([[0], [1]]))
