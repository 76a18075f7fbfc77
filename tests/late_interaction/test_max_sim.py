"""MaxSim by hand, against a double loop, and over quantised tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.late_interaction.max_sim import max_sim, max_sim_scores
from llama_index_ace_finetune.late_interaction.quantization import LEVELS, Bits, packed_products, quantise_tokens
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows


def tokens_of(lengths: list[int], dimension: int = 12, seed: int = 0) -> TokenVectors:
    vectors = np.random.default_rng(seed).normal(size=(sum(lengths), dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors, offsets_of(np.array(lengths, np.int64)))


def stored(tokens: TokenVectors, bits: Bits = 8) -> TokenStore:
    store = TokenStore(tokens.dimension, "f", settings=TokenSettings(bits=bits, pooling=1))
    store.upsert([str(text) for text in range(len(tokens))], tokens)
    return store


def by_hand(query: np.ndarray, document: np.ndarray) -> float:
    if not len(query) or not len(document):
        return -1.0
    return float(np.mean([max(float(q @ d) for d in document) for q in query]))


def test_scores_by_hand() -> None:
    query = np.array([[1, 0], [0, 1]], np.float32)
    documents = TokenVectors(np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32), np.array([0, 2, 2, 3]))
    # (1 + .8) / 2; no token; (-1 + 0) / 2
    assert max_sim(query, documents, np.array([0, 1, 2])).tolist() == [0.9, -1.0, -0.5]
    assert max_sim(query[:1], documents, np.array([2, 0])).tolist() == [-1.0, 1.0]
    assert max_sim(query[:0], documents, np.array([0])).tolist() == [-1.0]
    assert max_sim(query, documents, np.array([], np.int64)).tolist() == []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 4), min_size=1, max_size=4))
@settings(max_examples=60)
def test_equals_a_double_loop(document_lengths: list[int], query_lengths: list[int]) -> None:
    documents, queries = tokens_of(document_lengths), tokens_of(query_lengths, seed=1)
    candidates = np.tile(np.arange(-1, len(documents)), (len(queries), 1))
    found = max_sim_scores(queries, documents, candidates)
    assert (found[:, 0] == -1).all()
    for query in range(len(queries)):
        expected = [by_hand(queries[query], documents[text]) for text in range(len(documents))]
        assert np.allclose(found[query, 1:], expected, atol=2e-6)
    quantised = max_sim_scores(queries, stored(documents).tokens, candidates)
    assert np.abs(quantised - found).max() < 0.01


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_score_does_not_depend_on_the_other_candidates(bits: Bits) -> None:
    """Products of integer codes are exact, so that one served query gets the scores of the evaluation."""
    documents, queries = tokens_of([7, 3, 0, 11, 7] * 40, dimension=96), tokens_of([9, 1, 30], dimension=96, seed=2)
    tokens = stored(documents, bits).tokens
    everything = max_sim_scores(queries, tokens, np.tile(np.arange(200), (3, 1)))
    rng = np.random.default_rng(3)
    for _ in range(20):
        rows = rng.permutation(200)[: rng.integers(1, 200)]
        for query in range(3):
            assert (max_sim(queries[query], tokens, rows) == everything[query, rows]).all()


@pytest.mark.parametrize(("bits", "cosine"), [(8, 0.999), (4, 0.97), (2, 0.85)])
def test_decoded_tokens_are_close_to_the_original(bits: Bits, cosine: float) -> None:
    vectors = tokens_of([50], dimension=33).vectors
    codes, scales = quantise_tokens(vectors, bits)
    decoded = packed_products(codes, np.eye(33, dtype=np.float32), bits)
    assert np.abs(decoded).max() == LEVELS[bits]
    assert (decoded == np.rint(decoded)).all()
    assert codes.shape == (50, {8: 33, 4: 17, 2: 9}[bits])
    restored = decoded * scales[:, None].astype(np.float32)
    assert np.allclose(np.linalg.norm(restored, axis=1), 1, atol=1e-3)
    assert (restored * vectors).sum(axis=1).min() > cosine
    zero_codes, zero_scales = quantise_tokens(np.zeros((1, 33), np.float32), bits)
    assert not (packed_products(zero_codes, vectors, bits) * zero_scales.astype(np.float32)[:, None]).any()


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("count", [0, 1, 2500, 6000])
def test_products_of_codes_are_those_of_the_coordinates_that_they_stand_for(bits: Bits, count: int) -> None:
    rng = np.random.default_rng(count)
    packed = rng.integers(0, 256, (count, {8: 33, 4: 17, 2: 9}[bits])).astype(np.uint8)
    queries = rng.integers(-1000, 1000, (3, 33)).astype(np.float32)
    expected = np.zeros((count, 3), np.int64)
    for coordinate in range(33):
        byte, place = coordinate % packed.shape[1], coordinate // packed.shape[1]
        number = packed[:, byte].astype(np.int64) >> bits * place & 2**bits - 1
        code = {8: np.where(number > 127, number - 256, number), 4: number - 8, 2: 2 * number - 3}[bits]
        expected += code[:, None] * queries[:, coordinate].astype(np.int64)
    assert (packed_products(packed, queries, bits) == expected).all()


def test_4_bit_codes_by_hand() -> None:
    codes, scales = quantise_tokens(np.array([[0.6, -0.8, 0.0]], np.float32), 4)
    # 7 * (.75, -1, 0) = 5.25, -7, 0; the upper half of byte 0 is coordinate 2
    assert codes.tolist() == [[(5 + 8) | (0 + 8) << 4, -7 + 8]]
    assert scales[0] == np.float16(1 / np.sqrt(5**2 + 7**2))


def test_2_bit_codes_by_hand() -> None:
    codes, scales = quantise_tokens(np.array([[0.1, -0.2, 0.9, -0.4, 0.0]], np.float32), 2)
    # the root mean square is .45: codes 1, -1, 3, -1, 1, stored as 2, 1, 3, 1, 2 in the order 0, 2, 4 | 1, 3
    assert codes.tolist() == [[2 | 3 << 2 | 2 << 4, 1 | 1 << 2]]
    assert scales[0] == np.float16(1 / np.sqrt(13))


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="NaN or infinite"):
        TokenVectors(np.array([[np.nan, 0]], np.float32), np.array([0, 1]))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), max_size=8))
def test_ragged_rows(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([each[side] for each in ranges], np.int64) for side in (0, 1))
    expected = [row for start, length in ranges for row in range(start, start + length)]
    assert ragged_rows(starts, lengths).tolist() == expected
