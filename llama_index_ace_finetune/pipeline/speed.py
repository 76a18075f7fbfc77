"""How fast this machine embeds and trains, measured in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
from llama_index_ace_finetune.training.losses.embed_batch import embed
from llama_index_ace_finetune.training.modes.mode import Speed

_BATCH = 32
_CHARACTERS_PER_TOKEN = 4
_LINEAR_QUERIES = 512


def cost(texts: Sequence[str], encoder: Encoder) -> int:
    """Return the characters of `texts` that the model sees: each is cut at its longest input."""
    longest = (encoder.model.max_seq_length or 512) * _CHARACTERS_PER_TOKEN
    return sum(min(len(text), longest) for text in texts)


def measure_speed(encoder: Encoder, texts: Sequence[str], *, memories: int, seconds: float) -> Speed:
    """Embed and train on batches of `texts`, without changing the model, for at most about `seconds`.

    A started batch is finished, so a large model may take longer.

    Args:
        encoder: the base model.
        texts: a sample, in random order.
        memories: size of the corpus that the linear adapter ranks.
        seconds: for all measurements together.
    """
    encoder.encode_documents(texts[:2])  # one-off work is not measured
    embedded = _per_character(lambda batch: encoder.encode_documents(batch), texts, encoder, seconds / 2)
    trained = _per_character(lambda batch: _train(encoder, batch), texts, encoder, seconds / 2)
    return Speed(embed=embedded, train=trained, linear_step=_linear_step(encoder.dimension, memories))


def _per_character(run: Callable[[list[str]], object], texts: Sequence[str], encoder: Encoder, seconds: float) -> float:
    start, done = time.perf_counter(), 0
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        run(batch)
        done += cost(batch, encoder)
        if time.perf_counter() - start > seconds:
            break
    return (time.perf_counter() - start) / max(done, 1)


def _train(encoder: Encoder, batch: list[str]) -> None:
    model = encoder.model
    bfloat16 = encoder.settings.precision == "bfloat16"
    packed = PackedEncoder.supports(model)
    features = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in model.preprocess(batch, task="query").items()
    }
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        total = embed(model, features, packed=packed).sum()
    torch.autograd.backward(total)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # the step is in its queue, not done
    model.zero_grad(set_to_none=True)


def _linear_step(dimension: int, memories: int) -> float:
    """Seconds of a softmax of 512 queries over the memories, forward and backward."""
    matrix = nn.Parameter(torch.eye(dimension))
    queries, documents = torch.randn(_LINEAR_QUERIES, dimension), torch.randn(memories, dimension)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        torch.autograd.backward(torch.logsumexp(queries @ matrix.T @ documents.T, dim=1).sum())
        times.append(time.perf_counter() - start)
    return min(times)
