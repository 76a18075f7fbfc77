"""Token vectors of the default model, from the same pass as its text vectors."""

from __future__ import annotations

import numpy as np
import pytest

from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.late_interaction.projection import principal_projection
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

TEXTS = ["restart the queue worker", "", "x", "restart \ud800", "error LNK2019 unresolved external symbol " * 90]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def encoder(minilm: Encoder, request: pytest.FixtureRequest) -> Encoder:
    settings = EncoderSettings(device="cpu", precision=request.param)
    return Encoder(minilm.model, name="minilm", fingerprint="f", settings=settings)


@pytest.mark.parametrize("role", ["query", "document"])
def test_one_pass_gives_both_kinds_of_vectors(encoder: Encoder, role: Role) -> None:
    vectors, tokens = TokenEncoder(encoder).encode_both(TEXTS, role=role)
    assert (vectors == encoder.encode(TEXTS, role=role)).all()
    # [CLS] and [SEP] count; a text over the limit is truncated to the limit of the model.
    assert tokens.lengths.tolist() == [6, 2, 3, 4, encoder.model.max_seq_length]
    assert np.allclose(np.linalg.norm(tokens.vectors, axis=1), 1, atol=1e-5)
    features = encoder.model.preprocess([replace_lone_surrogates(text) for text in TEXTS])
    assert tokens.token_ids is not None
    assert tokens.token_ids.tolist() == features["input_ids"][features["attention_mask"].bool()].tolist()
    for place, text in enumerate(TEXTS):
        assert np.allclose(TokenEncoder(encoder).encode_both([text], role=role)[1][0], tokens[place], atol=0.02)


def test_token_vectors_are_normalised_states_of_the_model(minilm: Encoder) -> None:
    (expected,) = minilm.model.encode([TEXTS[0]], output_value="token_embeddings")
    states = expected.numpy() / np.linalg.norm(expected.numpy(), axis=1, keepdims=True)
    found = TokenEncoder(minilm).encode_queries(TEXTS)
    assert np.allclose(found[0], states, atol=1e-5)
    projection = principal_projection(found.vectors, 16)
    projected = states @ projection
    small = TokenEncoder(minilm, projection).encode_queries(TEXTS)
    assert np.allclose(small[0], projected / np.linalg.norm(projected, axis=1, keepdims=True), atol=1e-5)


def test_the_projection_keeps_dot_products() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 5)) @ rng.normal(size=(5, 24))).astype(np.float32)
    projected = vectors @ principal_projection(vectors, 5)  # the vectors span 5 dimensions
    assert np.allclose(projected @ projected.T, vectors @ vectors.T, rtol=1e-3, atol=1e-3)


def test_the_fingerprint_is_of_model_and_projection(minilm: Encoder) -> None:
    one, other = np.eye(384, 8, dtype=np.float32), 2 * np.eye(384, 8, dtype=np.float32)
    fingerprints = {TokenEncoder(minilm, projection).fingerprint for projection in (None, one, one.copy(), other)}
    assert len(fingerprints) == 3


def test_unusable_projections_are_refused(minilm: Encoder) -> None:
    with pytest.raises(ModelError, match="not a matrix of finite numbers"):
        TokenEncoder(minilm, np.full((384, 8), np.nan, np.float32))
    with pytest.raises(ModelError, match=r"for token states of 12 dimensions, and those of .* have 384"):
        TokenEncoder(minilm, np.eye(12, 8, dtype=np.float32)).encode_queries(["x"])


def test_no_texts(minilm: Encoder) -> None:
    vectors, tokens = TokenEncoder(minilm).encode_both([], role="query")
    assert vectors.shape == (0, 384)
    assert (len(tokens), tokens.dimension) == (0, 384)
