from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.encoders.exports.token_batches import padding_share, token_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=2, max_size=120)


def texts_of(lengths: list[int]) -> list[list[int]]:
    return [[row + 1] * length for row, length in enumerate(lengths)]


def test_texts_of_similar_length_share_a_batch() -> None:
    batches = token_batches([[1], [2, 2, 2], [3, 3], [4, 4, 4]], padding_id=9, budget=6)
    assert [batch.rows.tolist() for batch in batches] == [[1, 3], [2, 0]]
    assert batches[0].token_ids.tolist() == [[2, 2, 2], [4, 4, 4]]
    assert batches[1].token_ids.tolist() == [[3, 3], [1, 9]]
    assert batches[1].attention_mask.tolist() == [[1, 1], [1, 0]]
    assert padding_share(batches) == pytest.approx(1 / 10)


@pytest.mark.parametrize(("length", "width"), [(1, 8), (8, 8), (9, 16)])
def test_single_text_is_padded_to_a_multiple_of_eight(length: int, width: int) -> None:
    (batch,) = token_batches([[5] * length], padding_id=0)
    assert batch.token_ids.tolist() == [[5] * length + [0] * (width - length)]
    assert batch.attention_mask.tolist() == [[1] * length + [0] * (width - length)]


def test_no_texts_give_no_batches_and_no_padding() -> None:
    assert token_batches([], padding_id=0) == []
    assert padding_share([]) == 0


@settings(max_examples=60)
@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    texts = texts_of(lengths)
    batches = token_batches(texts, padding_id=0, budget=budget)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(len(texts)))
    for batch in batches:
        assert batch.token_ids.shape == batch.attention_mask.shape
        assert batch.token_ids.size <= budget or len(batch.rows) == 1
        for row, ids, mask in zip(batch.rows, batch.token_ids, batch.attention_mask, strict=True):
            assert ids[mask.astype(bool)].tolist() == texts[row]
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
            assert not ids[~mask.astype(bool)].any()


def test_padding_of_many_mixed_texts_is_below_eight_percent() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 0.8, 1024).clip(3, 256).astype(int)
    assert padding_share(token_batches(texts_of(lengths.tolist()), padding_id=0)) < 0.08
