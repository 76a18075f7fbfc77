from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.data.token_cache import TokenCache

BATCHES = (
    ["disk full", "who rotates the signing keys, and how often?"],
    ["who rotates the signing keys, and how often?", "restart", "disk full", "restart"],
    ["restart"],
)


class RecordingModel:
    """Wraps a model and records the texts passed to `preprocess`."""

    def __init__(self, model: Any) -> None:
        self.tokenizer = model.tokenizer
        self.texts: list[str] = []
        self._model = model

    def preprocess(self, texts: Sequence[str], **options: Any) -> dict[str, Any]:
        self.texts.extend(texts)
        features: dict[str, Any] = self._model.preprocess(texts, **options)
        return features


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
        else:
            assert found[name] == value


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", [None, "query: "])
def test_features_equal_the_models_and_each_text_is_tokenised_once(
    minilm: Encoder, prompt: str | None, side: str
) -> None:
    model = RecordingModel(minilm.model)
    model.tokenizer = copy.deepcopy(minilm.model.tokenizer)
    model.tokenizer.padding_side = side
    tokens = TokenCache(model)  # type: ignore[arg-type]
    before = minilm.model.tokenizer.padding_side
    try:
        minilm.model.tokenizer.padding_side = side
        for texts in BATCHES:
            assert_same(
                tokens(texts, prompt=prompt, task="query"), minilm.model.preprocess(texts, prompt=prompt, task="query")
            )
    finally:
        minilm.model.tokenizer.padding_side = before
    assert sorted(model.texts) == sorted({text for texts in BATCHES for text in texts})


def test_prompt_and_task_are_part_of_the_key(minilm: Encoder) -> None:
    tokens = TokenCache(minilm.model)
    texts = ["restart"]
    for prompt, task in ((None, "document"), ("query: ", "query"), (None, "query")):
        expected = minilm.model.preprocess(texts, prompt=prompt, task=task)
        assert_same(tokens(texts, prompt=prompt, task=task), expected)


def test_max_tokens_truncates_without_changing_the_model(minilm: Encoder) -> None:
    words = "who rotates the signing keys and how often is that"
    truncated = TokenCache(minilm.model, max_tokens=6)([words], task="query")["input_ids"]
    whole = TokenCache(minilm.model)([words], task="query")["input_ids"]
    assert truncated.tolist() == [[*whole[0, :5].tolist(), int(whole[0, -1])]]
    assert minilm.model.max_seq_length == 256
    longer = TokenCache(minilm.model, max_tokens=100_000)(["key " * 400], task="query")["input_ids"]
    assert longer.shape == (1, 256)


def test_lone_surrogates_are_replaced(minilm: Encoder) -> None:
    tokens = TokenCache(minilm.model)
    assert_same(tokens(["disk \ud83d full"], task="query"), minilm.model.preprocess(["disk ? full"], task="query"))


def test_other_features_are_not_cached(minilm: Encoder) -> None:
    model = RecordingModel(minilm.model)
    model.preprocess = lambda texts, **_: {"input_ids": torch.arange(len(texts))}  # type: ignore[method-assign]
    tokens = TokenCache(model)  # type: ignore[arg-type]
    assert tokens(["a", "a", "b"])["input_ids"].tolist() == [0, 1, 2]
