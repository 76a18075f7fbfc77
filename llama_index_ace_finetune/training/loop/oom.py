"""Retry a step with smaller chunks when the device is out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.utils.memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def retry_on_oom(step: Callable[[], Result], *, memory: ChunkLimits, model: nn.Module) -> Result:
    """Return `step()`; while it does not fit, `memory` is shrunk and the gradients of `model`, or a loss, are reset.

    Raises:
        TrainingError: if a single chunk of the batch does not fit.
    """
    while True:
        try:
            return step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            model.zero_grad(set_to_none=True)
            if not memory.shrink():
                raise TrainingError(
                    "Out of memory: not even one chunk of a batch fits on the device; lower max_seq_length, or set "
                    "device to cpu."
                ) from error
            logger.warning("out of memory; retrying with chunks of %d tokens, same batch", memory.chunk_tokens)
        # Here the exception, which holds the activations, is gone.
        torch.cuda.empty_cache()
