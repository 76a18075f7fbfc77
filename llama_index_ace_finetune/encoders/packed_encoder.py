"""A fast forward pass for BERT-like models: no padding, fused operations, float32 or bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.packed_layers import PackedLayers
from llama_index_ace_finetune.encoders.role_modules import role_modules
from llama_index_ace_finetune.encoders.token_states import TokenStates

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ARCHITECTURES = {"BertModel", "RobertaModel", "XLMRobertaModel"}
_POOLINGS = {"mean", "cls"}
_FURTHER = {"Normalize", "Dense"}
_TOKENS = 8192


class PackedEncoder:
    """Sentence vectors of a model on the CPU, faster than its forward pass.

    Texts are packed without padding. In float32 the vectors are those of the model but for the last digit, and in
    bfloat16 their cosine with them is about .9999.

    Args:
        model: one that `supports` accepts.
        role: of the texts, for models that embed queries and documents differently.
        frozen: use a fast copy of the current weights. Otherwise gradients flow to the model's weights.
        dtype: of the layers, torch.float32 or torch.bfloat16.
    """

    def __init__(
        self, model: SentenceTransformer, *, role: str = "document", frozen: bool = True, dtype: torch.dtype
    ) -> None:
        self._model, self._modules = model, role_modules(model, role)
        transformer, pooling, *self._further = self._modules
        self._layers = PackedLayers(transformer.auto_model, frozen=frozen, dtype=dtype)
        self._first_token = pooling.pooling_mode == "cls"

    @staticmethod
    def supports(model: SentenceTransformer, *, role: str = "document") -> bool:
        """Whether the architecture of `model` in `role` is supported, and the model is on the CPU."""
        modules: list[Any] = role_modules(model, role)
        if model.device.type != "cpu" or [type(module).__name__ for module in modules[:2]] != [
            "Transformer",
            "Pooling",
        ]:
            return False
        bert, pooling = modules[0].auto_model, modules[1]
        config = bert.config
        return (
            type(bert).__name__ in _ARCHITECTURES
            and getattr(config, "hidden_act", "") == "gelu"
            and getattr(config, "position_embedding_type", "absolute") == "absolute"
            and not getattr(config, "is_decoder", False)
            and str(getattr(pooling, "pooling_mode", "")) in _POOLINGS
            and bool(getattr(pooling, "include_prompt", True))
            and all(type(module).__name__ in _FURTHER for module in modules[2:])
        )

    def encodes(self, role: str) -> bool:
        """Whether the model encodes texts of `role` by the modules that this is of."""
        return role_modules(self._model, role) == self._modules

    def __call__(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors float32 [n, d], without gradients.

        Args:
            token_ids: integer tensor [n, length], padded anywhere.
            attention_mask: of the same shape, 1 for tokens.
        """
        with torch.inference_mode():
            order, parts = parts_by_length(attention_mask, tokens=_TOKENS)
            vectors = torch.cat([self.embed(token_ids[rows], attention_mask[rows]) for rows in parts])
            return vectors[torch.argsort(order)]

    def token_states(self, token_ids: Tensor, attention_mask: Tensor) -> TokenStates:
        """Return the unit vectors of `__call__` and the states of all tokens, from one pass."""
        with torch.inference_mode():
            _, parts = parts_by_length(attention_mask, tokens=_TOKENS)
            found = []
            for rows in parts:
                vectors, states, lengths = self.embed_with_states(token_ids[rows], attention_mask[rows])
                ids = token_ids[rows][attention_mask[rows].bool()].numpy()
                part = TokenStates(vectors.numpy(), states.numpy(), np.array(lengths, np.int64), ids)
                found.append((rows.numpy(), part))
            return TokenStates.in_order(found)

    def embed(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors float32 [n, d] in one pass; fastest if texts are sorted by length."""
        return self.embed_with_states(token_ids, attention_mask)[0]

    def embed_with_states(self, token_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Return `embed`, the states of all tokens, float32 [t, width], and the tokens of each text."""
        lengths: list[int] = attention_mask.sum(dim=1).tolist()
        states = self._layers(token_ids[attention_mask.bool()], lengths).float()
        texts = torch.split(states, lengths)
        pooled = torch.stack([text[0] if self._first_token else text.mean(dim=0) for text in texts])
        features = {"sentence_embedding": pooled}
        for module in self._further:
            features = module(features)
        return nn.functional.normalize(features["sentence_embedding"], dim=1), states, lengths


def parts_by_length(attention_mask: Tensor, *, tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Return the rows of `attention_mask` [n, length] sorted by length, and that order cut into chunks.

    A chunk has about `tokens` tokens, and at least one text.
    """
    lengths = attention_mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    part = torch.div(torch.cumsum(lengths[order], dim=0) - 1, tokens, rounding_mode="floor")
    _, sizes = torch.unique_consecutive(part, return_counts=True)
    return order, list(torch.split(order, sizes.tolist()))
