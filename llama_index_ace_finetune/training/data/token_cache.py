"""Tokenise each text once per training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_index_ace_finetune.encoders.token_limit import takes_token_limit
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates


class TokenCache:
    """A model's `preprocess` that keeps the tokens of every text it has seen, without padding.

    It returns what `preprocess` returns for the same texts, lone surrogates replaced. Features that are not one row of
    tokens per text (flattened inputs, images) are not cached.

    Args:
        model: its prompts, task and limits apply as in its own `preprocess`; they must not change between calls.
        max_tokens: truncates to fewer tokens than the model does; None keeps the model's limit.
    """

    def __init__(self, model: SentenceTransformer, *, max_tokens: int | None = None) -> None:
        self._model = model
        self._max_tokens = max_tokens
        tokenizer = getattr(model, "tokenizer", None)
        self._fill = {
            "input_ids": getattr(tokenizer, "pad_token_id", None) or 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", None) or 0,
        }
        self._left = getattr(tokenizer, "padding_side", "right") == "left"
        self._tokens: dict[tuple[str | None, str | None, str], dict[str, Tensor]] = {}
        self._of_all: dict[tuple[str | None, str | None], dict[str, Any]] = {}

    def __call__(self, texts: Sequence[str], *, prompt: str | None = None, task: str | None = None) -> dict[str, Any]:
        """Return the features of `texts`: tensors [n, longest], and values common to all."""
        texts = list(map(replace_lone_surrogates, texts))
        unseen = [text for text in dict.fromkeys(texts) if (task, prompt, text) not in self._tokens]
        if unseen:
            features = self._preprocess(unseen, prompt=prompt, task=task)
            mask = features.get("attention_mask")
            tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
            if mask is None or mask.dim() != 2 or any(value.shape != mask.shape for value in tensors.values()):
                return self._preprocess(texts, prompt=prompt, task=task)
            self._of_all[task, prompt] = {name: value for name, value in features.items() if name not in tensors}
            for place, text in enumerate(unseen):
                real = mask[place].bool()
                self._tokens[task, prompt, text] = {name: value[place][real] for name, value in tensors.items()}
        rows = [self._tokens[task, prompt, text] for text in texts]
        side = "left" if self._left else "right"
        block = {
            name: pad_sequence(
                [row[name] for row in rows], batch_first=True, padding_value=self._fill.get(name, 0), padding_side=side
            )
            for name in rows[0]
        }
        return {**block, **self._of_all[task, prompt]}

    def _preprocess(self, texts: list[str], *, prompt: str | None, task: str | None) -> dict[str, Any]:
        if self._max_tokens is None or not takes_token_limit(self._model):
            return self._model.preprocess(texts, prompt=prompt, task=task)
        own = self._model.max_seq_length
        if own is not None and own <= self._max_tokens:
            return self._model.preprocess(texts, prompt=prompt, task=task)
        self._model.max_seq_length = self._max_tokens
        try:
            return self._model.preprocess(texts, prompt=prompt, task=task)
        finally:
            self._model.max_seq_length = own
