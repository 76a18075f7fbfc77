"""A batch that the ranks of a training embed together: each a part of its texts, with the gradients of one process.

Rank 0 runs the trainer, and computes the loss over the whole batch, so that masks and weights are those of one process.
It sends each rank the tokens of its part, gets the vectors, returns their gradients, and adds up the gradients of the
weights before the step of the optimiser; the new weights go out with the next batch. The other ranks run
`loop.embed_parts`, and make no decision that could differ.

Source: gradient caching over several devices (Gao et al. 2021, arXiv:2101.06983): what a part of a batch needs from the
others is the gradients of its vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.packed_encoder import parts_by_length
from llama_index_ace_finetune.training.losses.embed_batch import (
    BatchTokens,
    ChunkLimits,
    Features,
    embed,
    embed_with_states,
)
from llama_index_ace_finetune.training.ranks import Ranks

BACKWARD: Final = "backward"
SUM: Final = "sum"
Rows = list[Tensor] | None


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """What a rank has to embed, and how.

    Attributes:
        blocks: features of its texts, for each block of the batch; None without any.
        with_states: return token states too.
        training: mode of the model, which turns dropout on.
        autocast: type of mixed precision; None without it.
        max_cached_tokens: see `ChunkLimits`.
        chunk_tokens: see `ChunkLimits`.
        seed: of dropout.
    """

    blocks: list[Features | None]
    with_states: bool
    training: bool
    autocast: torch.dtype | None
    max_cached_tokens: int
    chunk_tokens: int
    seed: int


class DividedBatch:
    """Embeds the blocks of a batch on all ranks; for rank 0.

    Args:
        ranks: more than one.
        model: embeds features; the others have one of the same architecture, and get its weights.
        packed: see `embed`.
    """

    def __init__(self, ranks: Ranks, model: nn.Module, *, packed: bool) -> None:
        self._ranks, self._model, self._packed = ranks, model, packed
        self._threads = torch.get_num_threads()
        ranks.broadcast(list(model.state_dict().values()))

    def embed(self, blocks: Sequence[Features], *, memory: ChunkLimits) -> list[Tensor]:
        """Return the vectors of `embed` of each block, float32 [n, d]."""
        shares, vectors = self._embed(blocks, memory=memory, with_states=False)
        return [_in_batch_order(one, share) for one, share in zip(vectors, shares, strict=True)]

    def embed_with_states(self, blocks: Sequence[Features], *, memory: ChunkLimits) -> list[tuple[Tensor, BatchTokens]]:
        """Return the vectors and token states of `embed_with_states` of each block, shortest first on each rank."""
        shares, found = self._embed(blocks, memory=memory, with_states=True)
        results = []
        for number, (block, share) in enumerate(zip(blocks, shares, strict=True)):
            mask = block["attention_mask"]
            order = torch.cat([rows[parts_by_length(mask[rows], tokens=1)[0]] for rows in share or () if len(rows)])
            tokens = BatchTokens(found[len(blocks) + number], mask.sum(dim=1)[order], order)
            results.append((_in_batch_order(found[number], share), tokens))
        return results

    def collect(self) -> None:
        """Add the gradients of the other ranks to those of the model; call it after the backward pass."""
        self._ranks.scatter([SUM] * self._ranks.size)
        self._ranks.sum_on_main(gradients(self._model))
        if self._ranks.threads:
            torch.set_num_threads(self._threads)  # rank 0 is on its own until the next batch

    def _embed(
        self, blocks: Sequence[Features], *, memory: ChunkLimits, with_states: bool
    ) -> tuple[list[Rows], Sequence[Tensor]]:
        """Return the rows of each rank by block, and the vectors (then the states) by block, in the order of ranks."""
        ranks, device = self._ranks, next(self._model.parameters()).device.type
        if ranks.threads:
            torch.set_num_threads(ranks.threads)
        shares = [divide_rows(block, ranks.size) for block in blocks]
        common: dict[str, Any] = {
            "with_states": with_states,
            "training": self._model.training,
            "autocast": torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
            "max_cached_tokens": memory.max_cached_tokens,
            "chunk_tokens": memory.chunk_tokens,
        }
        # The state of the generator is in the checkpoints, so a resumed training draws the same seeds.
        seed = int(torch.randint(2**31, ()))
        parts = [
            BatchPart(
                blocks=[_rows_of(block, share, rank) for block, share in zip(blocks, shares, strict=True)],
                seed=seed + rank,
                **common,
            )
            for rank in range(ranks.size)
        ]
        ranks.scatter([None, *(on_device(part, torch.device("cpu")) for part in parts[1:])])
        ranks.broadcast(trained_weights(self._model))
        own = embed_part(self._model, parts[0], packed=self._packed, memory=memory)
        theirs = [self._receive(parts[rank], own, rank) for rank in ranks.others]
        return shares, _Joined.apply(self._return_gradients, theirs, *own)  # type: ignore[no-untyped-call]

    def _receive(self, part: BatchPart, own: Sequence[Tensor], rank: int) -> list[Tensor]:
        found = []
        for number, tensor in enumerate(own):
            block = part.blocks[number % len(part.blocks)]
            mask = None if block is None else block["attention_mask"]
            count = 0 if mask is None else len(mask) if number < len(part.blocks) else int(mask.sum())
            into = tensor.new_empty((count, *tensor.shape[1:]))
            found.append(self._ranks.receive(into, source=rank) if count else into)
        return found

    def _return_gradients(self, by_rank: list[list[Tensor]]) -> None:
        self._ranks.scatter([BACKWARD] * self._ranks.size)
        for rank, of_rank in zip(self._ranks.others, by_rank, strict=True):
            for gradient in of_rank:
                if len(gradient):
                    self._ranks.send(gradient, to=rank)


class _Joined(torch.autograd.Function):
    """Appends the rows of the other ranks to those of this one; their gradients are passed to `send`."""

    @staticmethod
    def forward(
        ctx: Any, send: Callable[[list[list[Tensor]]], None], theirs: list[list[Tensor]], *own: Tensor
    ) -> tuple[Tensor, ...]:
        by_output = list(zip(own, *theirs, strict=True))
        ctx.send, ctx.sizes = send, [[len(rows) for rows in output] for output in by_output]
        return tuple(torch.cat(output) for output in by_output)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        parts = [torch.split(gradient, sizes) for gradient, sizes in zip(outputs, ctx.sizes, strict=True)]
        own, *theirs = (list(of_rank) for of_rank in zip(*parts, strict=True))
        ctx.send(theirs)
        return None, None, *own


def embed_part(model: nn.Module, part: BatchPart, *, packed: bool, memory: ChunkLimits) -> list[Tensor]:
    """Return the vectors of each block of a part, then its token states if they are asked for; no empty ones."""
    blocks = [block for block in part.blocks if block is not None]
    if not part.with_states:
        return [embed(model, block, packed=packed, memory=memory) for block in blocks]
    found = [embed_with_states(model, block, packed=packed, memory=memory) for block in blocks]
    return [*(vectors for vectors, _ in found), *(tokens.states for _, tokens in found)]


def trained_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights that an optimiser changes."""
    return [weight.data for weight in model.parameters() if weight.requires_grad]


def gradients(model: nn.Module) -> list[Tensor]:
    """Return the gradients of `trained_weights`, zeros where there are none."""
    return [
        torch.zeros_like(weight) if weight.grad is None else weight.grad
        for weight in model.parameters()
        if weight.requires_grad
    ]


def divide_rows(block: Features, count: int) -> Rows:
    """Return the rows of `count` ranks, with about the same number of tokens; None if the block cannot be divided.

    The first rank has at least one row.

    Source: longest first, each to the rank with the fewest tokens so far (Graham 1969).
    """
    if "attention_mask" not in block:
        return None
    mask = block["attention_mask"]
    lengths = mask.sum(dim=1).tolist()
    loads = [(0, rank) for rank in range(count)]
    rows: list[list[int]] = [[] for _ in range(count)]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        load, rank = loads[0]
        rows[rank].append(row)
        heapq.heapreplace(loads, (load + lengths[row], rank))
    return [torch.tensor(sorted(of_rank), dtype=torch.int64, device=mask.device) for of_rank in rows]


def _rows_of(block: Features, share: Rows, rank: int) -> Features | None:
    if share is None:
        return block if rank == 0 else None
    rows, mask = share[rank], block["attention_mask"]
    if not len(rows):
        return None
    return {
        name: value[rows] if isinstance(value, Tensor) and value.shape == mask.shape else value
        for name, value in block.items()
    }


def _in_batch_order(vectors: Tensor, share: Rows) -> Tensor:
    return vectors if share is None else vectors[torch.argsort(torch.cat(share))]


def on_device(part: BatchPart, device: torch.device) -> BatchPart:
    """Return a part with its tensors on `device`."""
    blocks = [
        block and {name: value.to(device) if isinstance(value, Tensor) else value for name, value in block.items()}
        for block in part.blocks
    ]
    return replace(part, blocks=blocks)
