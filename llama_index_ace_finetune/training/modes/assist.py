"""How ranks other than 0 take part in a training: they embed parts of the batches of the modes that divide them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.loop.budget import DoesNotFitError
from llama_index_ace_finetune.training.loop.embed_parts import embed_parts
from llama_index_ace_finetune.training.losses.divided_batch import DividedBatch
from llama_index_ace_finetune.training.modes.frozen_layers import frozen_layers
from llama_index_ace_finetune.training.modes.lora import with_adapters
from llama_index_ace_finetune.training.ranks import Ranks


@dataclass(frozen=True, slots=True)
class _Begin:
    """A training with divided batches begins; `packed` is that of `embed`."""

    packed: bool


@dataclass(frozen=True, slots=True)
class _Finished:
    """The training is done."""

    result: Any


@contextmanager
def divided_batches(ranks: Ranks, model: SentenceTransformer, *, packed: bool) -> Iterator[DividedBatch | None]:
    """Give what embeds the batches of rank 0 on all ranks; None where there is only one.

    Args:
        ranks: the others are in `assist`.
        model: that is trained, with its adapters and frozen layers.
        packed: see `embed`.
    """
    if ranks.size == 1:
        yield None
        return
    ranks.scatter([_Begin(packed)] * ranks.size)
    divided = DividedBatch(ranks, model, packed=packed)
    try:
        yield divided
    except DoesNotFitError:  # another mode may follow; after any other error the process ends
        ranks.scatter([None] * ranks.size)
        raise
    ranks.scatter([None] * ranks.size)


def assist(ranks: Ranks, config: TrainingConfig) -> Any:
    """Embed parts of the batches of rank 0 until it calls `finish`, and return its result.

    Raises:
        ModelError: if the base model cannot be loaded.
        TrainingError: if another rank ends, or a single chunk of a part does not fit into memory.
    """
    if ranks.threads:
        torch.set_num_threads(ranks.threads)
    model: SentenceTransformer | None = None
    while not isinstance(order := ranks.scatter(), _Finished):
        if model is None:  # modes that only rank 0 runs need none
            settings = EncoderSettings(device=ranks.device, precision=config.precision)
            model = Encoder.load(config.base_model, settings=settings).model
        adapted = config.lora_rank is not None
        trained = with_adapters(model, config) if adapted else model
        with frozen_layers(trained, 0 if adapted else config.frozen_layers):
            embed_parts(ranks, trained, packed=order.packed)
    return order.result


def finish(ranks: Ranks, result: Any) -> None:
    """End `assist` on the other ranks, which then return `result`."""
    if ranks.size > 1:
        ranks.scatter([_Finished(result)] * ranks.size)
