"""Sentence embeddings with gradients, for batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder, parts_by_length

Features = dict[str, Tensor]

_SMALLEST_CHUNK = 128


@dataclass
class ChunkLimits:
    """How much of a batch is in memory at once.

    Attributes:
        max_cached_tokens: up to this many tokens, all activations are kept for the backward pass: about 100 kB a token
            in a model of 6 layers and 384 dimensions.
        chunk_tokens: tokens of one chunk.
    """

    max_cached_tokens: int = 36_864
    chunk_tokens: int = 4096

    def shrink(self) -> bool:
        """Use less memory from now on, with the same gradients; False if that is not possible."""
        if self.max_cached_tokens:
            self.max_cached_tokens = 0
            return True
        self.chunk_tokens //= 2
        return self.chunk_tokens >= _SMALLEST_CHUNK


def embed(model: nn.Module, features: Features, *, packed: bool, memory: ChunkLimits | None = None) -> Tensor:
    """Return unit sentence embeddings float32 [n, d], computed in chunks of texts of similar length.

    Otherwise one long text would pad every text of the batch to its length. If the batch has more tokens than
    `memory.max_cached_tokens`, activations are recomputed in the backward pass: it needs the memory of one chunk and a
    third more time, and the gradients are the same.

    Source: gradient caching (Gao et al. 2021, arXiv:2101.06983), by torch's own checkpointing.

    Args:
        model: maps features to "sentence_embedding".
        features: tensors [n, length], with `attention_mask`; other values are passed on unchanged.
        packed: compute in bfloat16 without padding or dropout; `PackedEncoder.supports(model)` must hold.
        memory: how much of the batch is in memory at once.
    """
    memory = memory or ChunkLimits()
    mask = features.get("attention_mask")
    if mask is None:
        return nn.functional.normalize(model(dict(features))["sentence_embedding"].float())
    part_of = _packed_part(model, features) if packed else _padded_part(model, features)
    order, parts = parts_by_length(mask, tokens=memory.chunk_tokens)
    if int(mask.sum()) > memory.max_cached_tokens:
        vectors = [checkpoint(part_of, rows, use_reentrant=False) for rows in parts]
    else:
        vectors = [part_of(rows) for rows in parts]
    return torch.cat(vectors)[torch.argsort(order)]


def _packed_part(model: nn.Module, features: Features) -> Callable[[Tensor], Tensor]:
    encoder = PackedEncoder(model, frozen=False)  # type: ignore[arg-type]
    ids, mask = features["input_ids"], features["attention_mask"]

    def embed_rows(rows: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, enabled=False):
            return encoder.embed(ids[rows], mask[rows])

    return embed_rows


def _padded_part(model: nn.Module, features: Features) -> Callable[[Tensor], Tensor]:
    mask = features["attention_mask"]

    def embed_rows(rows: Tensor) -> Tensor:
        columns = torch.nonzero(mask[rows].any(dim=0)).squeeze(1)
        part = {
            name: value[rows][:, columns] if isinstance(value, Tensor) and value.shape == mask.shape else value
            for name, value in features.items()
        }
        return nn.functional.normalize(model(part)["sentence_embedding"].float())

    return embed_rows
