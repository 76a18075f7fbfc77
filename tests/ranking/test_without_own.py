from __future__ import annotations

import numpy as np

from llama_index_ace_finetune.ranking.own_documents import without_own


def test_own_document_is_removed_and_later_hits_move_up() -> None:
    rankings = np.array([[3, 1, 2], [0, 4, -1], [5, 6, 7]], np.int32)
    scores = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.0], [0.3, 0.2, 0.1]], np.float32)
    kept, values = without_own(rankings, np.array([1, 0, -1]), limit=2, scores=scores)
    assert kept.tolist() == [[3, 2], [4, -1], [5, 6]]
    assert values is not None
    assert np.allclose(values[0], [0.9, 0.7])
    assert np.isclose(values[1, 0], 0.5)


def test_padding_is_not_an_own_document() -> None:
    rankings = np.array([[2, -1, -1]], np.int32)
    assert without_own(rankings, np.array([-1]), limit=3)[0].tolist() == [[2, -1, -1]]
    assert without_own(rankings, None, limit=1)[0].tolist() == [[2]]
