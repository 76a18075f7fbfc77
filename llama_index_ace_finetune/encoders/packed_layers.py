"""The layers of a BERT-like model over packed texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.packed_attention import packed_attention

# Number of rows that oneDNN optimises the weight layout for; others work, slightly slower.
_USUAL_ROWS = 4096


class PackedLayers:
    """Token states of a BertModel, RobertaModel or XLMRobertaModel, without padding.

    Args:
        bert: the model.
        frozen: copy the weights in a layout for fast products, with bias, activation and residual fused. Otherwise
            gradients flow to the model's weights, without dropout; layers that require none are copied so.
        dtype: of the products, torch.float32 or torch.bfloat16.
    """

    def __init__(self, bert: Any, *, frozen: bool, dtype: torch.dtype) -> None:
        embeddings = bert.embeddings
        self._dtype = dtype
        self._heads: int = bert.config.num_attention_heads
        # RoBERTa positions start after that of the padding token.
        self._first_position = 0 if type(bert).__name__ == "BertModel" else int(embeddings.padding_idx) + 1
        self._words = embeddings.word_embeddings.weight
        self._positions = embeddings.position_embeddings.weight
        self._types = embeddings.token_type_embeddings.weight
        self._norm = embeddings.LayerNorm
        self._layers = [
            _Layer.of(layer, heads=self._heads, frozen=frozen or not _is_trained(layer), dtype=dtype)
            for layer in bert.encoder.layer
        ]

    def __call__(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the last layer's states, [tokens, width] in `dtype`.

        Args:
            tokens: ids [tokens] of all texts, concatenated.
            lengths: tokens of each text.
        """
        positions = torch.cat([torch.arange(length) for length in lengths]) + self._first_position
        words = nn.functional.embedding(tokens, self._words)
        x = words + nn.functional.embedding(positions, self._positions) + self._types[0]
        x = self._norm(x).to(self._dtype)
        for layer in self._layers:
            x = layer(x, lengths, heads=self._heads)
        return x  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Linear:
    """x W' + b, with a fused activation or residual if the weight is frozen and torch supports it."""

    weight: Tensor
    bias: Tensor
    fused: bool

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, *, frozen: bool, dtype: torch.dtype) -> _Linear:
        weight, bias = weight.to(dtype), bias.to(dtype)
        if not (frozen and _can_fuse(dtype)):
            return cls(weight, bias, fused=False)
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _USUAL_ROWS)
        return cls(blocked, bias.detach(), fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.fused:
            return nn.functional.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def gelu(self, x: Tensor) -> Tensor:
        if not self.fused:
            return nn.functional.gelu(self(x))
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")  # type: ignore[no-any-return]

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        if not self.fused:
            return self(x) + residual
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: Any, *, dtype: torch.dtype) -> _Norm:
        return cls(norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)

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
    def of(cls, layer: Any, *, heads: int, frozen: bool, dtype: torch.dtype) -> _Layer:
        attention, output = layer.attention.self, layer.attention.output
        # The scale of the scores is folded into the query weights.
        scale = 1 / math.sqrt(attention.query.weight.shape[0] / heads)

        def linear(weight: Tensor, bias: Tensor) -> _Linear:
            return _Linear.of(weight, bias, frozen=frozen, dtype=dtype)

        return cls(
            projection=linear(
                torch.cat([attention.query.weight * scale, attention.key.weight, attention.value.weight]),
                torch.cat([attention.query.bias * scale, attention.key.bias, attention.value.bias]),
            ),
            attended=linear(output.dense.weight, output.dense.bias),
            attended_norm=_Norm.of(output.LayerNorm, dtype=dtype),
            up=linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
            down=linear(layer.output.dense.weight, layer.output.dense.bias),
            norm=_Norm.of(layer.output.LayerNorm, dtype=dtype),
        )

    def __call__(self, x: Tensor, lengths: Sequence[int], *, heads: int) -> Tensor:
        x = self.attended_norm(self.attended.plus(packed_attention(self.projection(x), lengths, heads=heads), x))
        return self.norm(self.down.plus(self.up.gelu(x), x))


def _is_trained(layer: nn.Module) -> bool:
    return any(weight.requires_grad for weight in layer.parameters())


def _can_fuse(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's linear layers with fused operations for the type."""
    operations = torch.ops.mkldnn
    if not hasattr(operations, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(operations._is_mkldnn_bf16_supported())
