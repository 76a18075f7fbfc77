"""A fast forward pass for BERT-like models: bfloat16, no padding, fused operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.packed_attention import packed_attention

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ARCHITECTURES = {"BertModel", "RobertaModel", "XLMRobertaModel"}
_POOLINGS = {"mean", "cls"}
TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class _Linear:
    """x W' + b, with the bias, a GELU or a residual sum done in the same pass where torch can."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> _Linear:
        weight = weight.detach().to(torch.bfloat16).contiguous()
        return cls(_reordered(weight), bias.detach().to(torch.bfloat16))

    def __call__(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "gelu", "none")

    def _pointwise(self, x: Tensor, name: str, algorithm: str) -> Tensor:
        if not _fused():
            y = nn.functional.linear(x, self.weight, self.bias)
            return nn.functional.gelu(y) if name == "gelu" else y
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], algorithm)  # type: ignore[no-any-return]

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        if not _fused():
            return nn.functional.linear(x, self.weight, self.bias) + residual
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: Any) -> _Norm:
        return cls(norm.weight.detach().to(torch.bfloat16), norm.bias.detach().to(torch.bfloat16), norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _Layer:
    projection: _Linear
    attended: _Linear
    attended_norm: _Norm
    up: _Linear
    down: _Linear
    norm: _Norm

    @classmethod
    def of(cls, layer: Any, *, heads: int) -> _Layer:
        attention, output = layer.attention.self, layer.attention.output
        scale = 1 / math.sqrt(attention.query.weight.shape[0] / heads)
        return cls(
            projection=_Linear.of(
                torch.cat([attention.query.weight * scale, attention.key.weight, attention.value.weight]),
                torch.cat([attention.query.bias * scale, attention.key.bias, attention.value.bias]),
            ),
            attended=_Linear.of(output.dense.weight, output.dense.bias),
            attended_norm=_Norm.of(output.LayerNorm),
            up=_Linear.of(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
            down=_Linear.of(layer.output.dense.weight, layer.output.dense.bias),
            norm=_Norm.of(layer.output.LayerNorm),
        )

    def __call__(self, x: Tensor, lengths: Sequence[int], *, heads: int) -> Tensor:
        x = self.attended_norm(self.attended.plus(packed_attention(self.projection(x), lengths, heads=heads), x))
        return self.norm(self.down.plus(self.up.gelu(x), x))


class PackedEncoder:
    """Sentence vectors of one model on the processor, a few times as fast as its own forward pass.

    Texts are laid end to end, so nothing is padded; products run in bfloat16 with their bias, activation and residual
    fused; vectors agree with the model's own to a cosine of about .9999. It holds a copy of the weights as they were.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        """Copy the weights of `model`; `supports(model)` must hold."""
        bert: Any = model[0].auto_model
        embeddings = bert.embeddings
        self._heads: int = bert.config.num_attention_heads
        self._pooling = str(model[1].pooling_mode)
        # RoBERTa counts positions from after the padding token's.
        self._first_position = 0 if type(bert).__name__ == "BertModel" else int(embeddings.padding_idx) + 1
        self._words = embeddings.word_embeddings.weight.detach()
        self._positions = embeddings.position_embeddings.weight.detach()
        self._type = embeddings.token_type_embeddings.weight[0].detach()
        self._norm = embeddings.LayerNorm
        self._layers = [_Layer.of(layer, heads=self._heads) for layer in bert.encoder.layer]

    @staticmethod
    def supports(model: SentenceTransformer) -> bool:
        """Whether `model` is of an architecture that this class computes, and on the processor."""
        if model.device.type != "cpu" or not 2 <= len(model) <= 3 or type(model[0]).__name__ != "Transformer":
            return False
        bert: Any = model[0].auto_model
        config = bert.config
        return (
            type(bert).__name__ in _ARCHITECTURES
            and getattr(config, "hidden_act", "") == "gelu"
            and getattr(config, "position_embedding_type", "absolute") == "absolute"
            and not getattr(config, "is_decoder", False)
            and type(model[1]).__name__ == "Pooling"
            and str(getattr(model[1], "pooling_mode", "")) in _POOLINGS
            and getattr(model[1], "include_prompt", True)
            and (len(model) == 2 or type(model[2]).__name__ == "Normalize")
        )

    def __call__(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors float32 [n, d].

        Args:
            token_ids: integer tensor [n, length], padded anywhere.
            attention_mask: of the same shape, 1 for tokens.
        """
        lengths = attention_mask.sum(dim=1)
        order = torch.argsort(lengths, stable=True)
        result = torch.empty(len(lengths), self._words.shape[1])
        with torch.inference_mode():
            for rows in _by_budget(order, lengths[order].tolist()):
                mask = attention_mask[rows].bool()
                result[rows] = self._forward(token_ids[rows][mask], lengths[rows].tolist())
        return nn.functional.normalize(result, dim=1)

    def _forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        positions = torch.cat([torch.arange(length) for length in lengths]) + self._first_position
        x = self._norm(self._words[tokens] + self._positions[positions] + self._type).to(torch.bfloat16)
        for layer in self._layers:
            x = layer(x, lengths, heads=self._heads)
        texts = torch.split(x.float(), lengths)
        return torch.stack([text[0] if self._pooling == "cls" else text.mean(dim=0) for text in texts])


def _by_budget(order: Tensor, lengths: list[int]) -> list[Tensor]:
    """Cut `order` where the lengths exceed the token budget; a text that is longer than it stands alone."""
    parts, start, total = [], 0, 0
    for place, length in enumerate(lengths):
        if total and total + length > TOKEN_BUDGET:
            parts.append(order[start:place])
            start, total = place, 0
        total += length
    parts.append(order[start:])
    return parts


def _fused() -> bool:
    """Whether this torch has oneDNN's linear layers with fused operations for bfloat16."""
    operations = torch.ops.mkldnn
    return hasattr(operations, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _reordered(weight: Tensor) -> Tensor:
    """The weight in oneDNN's blocked layout, so that it is not rearranged at each product."""
    if not _fused():
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight, TOKEN_BUDGET)  # type: ignore[no-any-return]
