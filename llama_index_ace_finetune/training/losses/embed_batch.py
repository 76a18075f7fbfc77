"""Sentence embeddings and token states with gradients, for batches of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder, parts_by_length
from llama_index_ace_finetune.utils.memory import memory_bytes

Features = dict[str, Tensor]

_SMALLEST_CHUNK = 128
_MEMORY_SHARE = 1 / 3
# Numbers that a layer keeps of a token for its backward pass, in widths of the model.
_KEPT_PER_LAYER = 24


@dataclass
class ChunkLimits:
    """How much of a batch is in memory at once.

    Attributes:
        max_cached_tokens: up to this many tokens, all activations are kept for the backward pass: about 100 kB a token
            in a model of 6 layers and 384 dimensions in bfloat16, and twice that in float32. On a CPU fewer, if they
            would take more than a third of the main memory.
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


@dataclass(frozen=True)
class BatchTokens:
    """The last layer's token states of n texts.

    Attributes:
        states: float tensor [tokens, width], one text after the other, shortest first.
        lengths: int64 tensor [n], tokens of each text, ascending (of a `DividedBatch`, within each rank's part).
        order: int64 tensor [n]; the i-th text here is text order[i] of the batch.
    """

    states: Tensor
    lengths: Tensor
    order: Tensor


def embed(model: nn.Module, features: Features, *, packed: bool, memory: ChunkLimits | None = None) -> Tensor:
    """Return unit sentence embeddings float32 [n, d], computed in chunks of texts of similar length.

    Otherwise one long text would pad every text of the batch to its length. If the batch has more tokens than
    `memory.max_cached_tokens`, activations are recomputed in the backward pass: it needs the memory of one chunk and a
    third more time, and the gradients are the same.

    Source: gradient caching (Gao et al. 2021, arXiv:2101.06983), by torch's own checkpointing.

    Args:
        model: maps features to "sentence_embedding".
        features: tensors [n, length], with `attention_mask`; other values are passed on unchanged.
        packed: compute without padding or dropout, in the precision of autocast; `PackedEncoder.supports(model)` must
            hold.
        memory: how much of the batch is in memory at once.
    """
    if "attention_mask" not in features:
        return nn.functional.normalize(model(dict(features))["sentence_embedding"].float())
    order, _, parts = _in_parts(model, features, packed=packed, memory=memory or ChunkLimits(), with_states=False)
    return torch.cat([vectors for vectors, *_ in parts])[torch.argsort(order)]


def embed_with_states(
    model: nn.Module, features: Features, *, packed: bool, memory: ChunkLimits | None = None
) -> tuple[Tensor, BatchTokens]:
    """Return `embed`, and the token states of the same forward pass.

    The states of the whole batch are in memory, those of the layers below them only as in `embed`.

    Args:
        model: maps features to "sentence_embedding" and "token_embeddings".
        features: see `embed`.
        packed: see `embed`.
        memory: see `embed`.
    """
    order, lengths, parts = _in_parts(model, features, packed=packed, memory=memory or ChunkLimits(), with_states=True)
    vectors, states = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return vectors[torch.argsort(order)], BatchTokens(states, lengths[order], order)


def _in_parts(
    model: nn.Module, features: Features, *, packed: bool, memory: ChunkLimits, with_states: bool
) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]]]:
    """Return the order of texts by length, the lengths, and the vectors (and states) of each chunk in that order."""
    mask = features["attention_mask"]
    part_of = (_packed_part if packed else _padded_part)(model, features, with_states=with_states)
    order, parts = parts_by_length(mask, tokens=memory.chunk_tokens)
    if int(mask.sum()) > min(memory.max_cached_tokens, _tokens_in_main_memory(model, mask.device.type)):
        return order, mask.sum(dim=1), [checkpoint(part_of, rows, use_reentrant=False) for rows in parts]
    return order, mask.sum(dim=1), [part_of(rows) for rows in parts]


def _tokens_in_main_memory(model: nn.Module, device: str) -> float:
    """Tokens whose activations take the share of the main memory that they may; without limit on other devices."""
    size = memory_bytes() if device == "cpu" else None
    configs = (getattr(module, "config", None) for module in model.modules())
    config = next((one for one in configs if hasattr(one, "num_hidden_layers") and hasattr(one, "hidden_size")), None)
    if size is None or config is None:
        return math.inf
    of_token: int = _KEPT_PER_LAYER * config.num_hidden_layers * config.hidden_size * _dtype(device).itemsize
    return size * _MEMORY_SHARE / of_token


def _dtype(device: str) -> torch.dtype:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def _packed_part(model: nn.Module, features: Features, *, with_states: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    ids, mask = features["input_ids"], features["attention_mask"]
    device = ids.device.type
    encoder = PackedEncoder(model, frozen=False, dtype=_dtype(device))  # type: ignore[arg-type]

    def embed_rows(rows: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device, enabled=False):
            vectors, states, _ = encoder.embed_with_states(ids[rows], mask[rows])
            return (vectors, states) if with_states else (vectors,)

    return embed_rows


def _padded_part(model: nn.Module, features: Features, *, with_states: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    mask = features["attention_mask"]

    def embed_rows(rows: Tensor) -> tuple[Tensor, ...]:
        columns = torch.nonzero(mask[rows].any(dim=0)).squeeze(1)
        part = {
            name: value[rows][:, columns] if isinstance(value, Tensor) and value.shape == mask.shape else value
            for name, value in features.items()
        }
        real = part["attention_mask"].bool()  # modules after the transformer may replace the mask
        found = model(part)
        vectors = nn.functional.normalize(found["sentence_embedding"].float())
        return (vectors, found["token_embeddings"][real]) if with_states else (vectors,)

    return embed_rows
