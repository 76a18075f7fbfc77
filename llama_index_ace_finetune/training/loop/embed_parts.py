"""What a rank other than 0 does in a training: embed its parts of the batches, and add its gradients."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.training.loop.oom import retry_on_oom
from llama_index_ace_finetune.training.losses.divided_batch import (
    BACKWARD,
    SUM,
    BatchPart,
    embed_part,
    gradients,
    on_device,
    trained_weights,
)
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.training.ranks import Ranks


def embed_parts(ranks: Ranks, model: nn.Module, *, packed: bool) -> None:
    """Serve the `DividedBatch` of rank 0 until it sends None.

    A part that does not fit is embedded in smaller chunks, with the same gradients.

    Raises:
        TrainingError: if another rank ends, or a single chunk does not fit.
    """
    ranks.broadcast(list(model.state_dict().values()))
    worker = _Worker(ranks, model, packed=packed)
    while (order := ranks.scatter()) is not None:
        if order == SUM:
            ranks.sum_on_main(gradients(model))
        elif order == BACKWARD:
            worker.backward()
        else:
            worker.embed(order)


class _Worker:
    def __init__(self, ranks: Ranks, model: nn.Module, *, packed: bool) -> None:
        self._ranks, self._model, self._packed = ranks, model, packed
        self._memory = ChunkLimits()
        self._part: BatchPart | None = None
        self._found: list[Tensor] = []

    def embed(self, part: BatchPart) -> None:
        """Take the weights of rank 0, and send it the vectors (and states) of a part."""
        memory = self._memory
        memory.max_cached_tokens = min(memory.max_cached_tokens, part.max_cached_tokens)
        memory.chunk_tokens = min(memory.chunk_tokens, part.chunk_tokens)
        self._part = on_device(part, next(self._model.parameters()).device)
        self._ranks.broadcast(trained_weights(self._model))
        self._model.train(part.training)
        self._model.zero_grad(set_to_none=True)
        self._found = retry_on_oom(self._forward, memory=memory, model=self._model)
        for tensor in self._found:
            self._ranks.send(tensor.detach(), to=0)

    def backward(self) -> None:
        """Receive the gradients of the vectors (and states), and compute those of the weights."""
        received = [self._ranks.receive(torch.empty_like(one), source=0) for one in self._found]

        def step() -> None:
            found, self._found = self._found or self._forward(), []
            if found:
                torch.autograd.backward(found, cast("list[Tensor | None]", received))

        retry_on_oom(step, memory=self._memory, model=self._model)

    def _forward(self) -> list[Tensor]:
        part = self._part
        assert part is not None
        torch.manual_seed(part.seed)
        device = next(self._model.parameters()).device.type
        with torch.autocast(device, dtype=part.autocast, enabled=part.autocast is not None):
            found = embed_part(self._model, part, packed=self._packed, memory=self._memory)
        return [tensor for tensor in found if len(tensor)]
