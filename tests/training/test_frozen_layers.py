from __future__ import annotations

import pytest
import torch
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.losses.embed_batch import embed
from llama_index_ace_finetune.training.modes.frozen_layers import frozen_layers, layers_of

TEXTS = ["rotate the keys", "the nightly backup failed", "who is on call?"]


@pytest.fixture
def model(minilm: Encoder) -> SentenceTransformer:
    return minilm.model


def trained(model: SentenceTransformer) -> set[str]:
    """The first parts of the names of the weights that get a gradient."""
    model.zero_grad(set_to_none=True)
    features = {name: value for name, value in model.preprocess(TEXTS).items() if isinstance(value, torch.Tensor)}
    embed(model, features, packed=PackedEncoder.supports(model)).sum().backward()
    found = {name for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_lower_layers_get_no_gradient_and_vectors_are_the_same(model: SentenceTransformer) -> None:
    features = {name: value for name, value in model.preprocess(TEXTS).items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        before = embed(model, features, packed=PackedEncoder.supports(model))
    all_of_them = trained(model)
    with frozen_layers(model, 2):
        with torch.no_grad():
            assert (
                torch.nn.functional.cosine_similarity(
                    embed(model, features, packed=PackedEncoder.supports(model)), before
                ).min()
                > 0.9999
            )
        found = trained(model)
    layers = {".".join(name.split(".")[:5]) for name in found if ".layer." in name}
    assert len(layers) == len(layers_of(model)) - 2
    assert not any("embeddings" in name or ".layer.0." in name or ".layer.1." in name for name in found)
    assert trained(model) == all_of_them  # trained again afterwards


def test_one_layer_has_to_be_trained(model: SentenceTransformer) -> None:
    count = len(layers_of(model))
    with (
        pytest.raises(
            TrainingError, match=f"frozen_layers is {count}, and the base model has {count} transformer layers"
        ),
        frozen_layers(model, count),
    ):
        pass


def test_a_model_without_layers_is_refused(static_model: SentenceTransformer) -> None:
    assert layers_of(static_model) == []
    with pytest.raises(TrainingError, match="has 0 transformer layers"), frozen_layers(static_model, 1):
        pass
    with frozen_layers(static_model, 0):
        pass


@pytest.fixture
def static_model() -> SentenceTransformer:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
