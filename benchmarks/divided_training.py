"""Steps of a training by one process or by several, and the differences of their gradients; `scale_out.py` starts it.

    torchrun --nproc-per-node N benchmarks/divided_training.py

Generated texts of 20 to 60 words, 64 queries and 128 documents a batch. Rank 0 prints one line of JSON.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import library_first  # noqa: F401
import numpy as np
import torch

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.loop.embed_parts import embed_parts
from llama_index_ace_finetune.training.losses.divided_batch import DividedBatch
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.ranks import Ranks, join_ranks

STEPS, QUERIES, COMPARED = 4, 64, 8
PRECISIONS = ("float32", "bfloat16")
CACHING = ChunkLimits(max_cached_tokens=0, chunk_tokens=512)


def batch_of(encoder: Encoder, queries: int) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Two feature blocks and targets: a positive and a negative of each query, some documents masked."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in ("retry", "upload", "cache", "lock", "disk", "key") for b in ("s", "ed", "ing", "er")]

    def texts(count: int, longest: int) -> list[str]:
        return [" ".join(rng.choice(words, rng.integers(longest // 3, longest))) for _ in range(count)]

    blocks = [encoder.model.preprocess(texts(queries, 20)), encoder.model.preprocess(texts(2 * queries, 60))]
    targets = torch.zeros(queries, 2 * queries, dtype=torch.int8)
    targets[torch.arange(queries), torch.arange(queries)] = 1
    targets[torch.arange(queries), (torch.arange(queries) + 3) % queries] = -1
    return blocks, targets


def gradients(loss: MaskedRankingLoss, batch: Any, divided: DividedBatch | None) -> list[torch.Tensor]:
    loss.divided = divided
    loss.zero_grad(set_to_none=True)
    loss(*batch).backward()
    if divided:
        divided.collect()
    return [weight.grad.clone() for weight in loss.parameters() if weight.grad is not None]


def differences(ranks: Ranks, encoder: Encoder) -> dict[str, float]:
    """The largest difference of a gradient in float64, plain and with gradient caching, and the largest gradient."""
    model = encoder.model.double().eval()
    batch = batch_of(encoder, COMPARED)
    divided = DividedBatch(ranks, model, packed=False)
    loss, found = MaskedRankingLoss(model, temperature=0.05), dict[str, float]()
    for name, limits in (("plain", ChunkLimits()), ("gradient caching", CACHING)):
        loss.memory = replace(limits)
        alone, together = gradients(loss, batch, None), gradients(loss, batch, divided)
        found[name] = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
        found["largest"] = max(float(a.abs().max()) for a in alone)
    ranks.scatter([None] * ranks.size)
    model.float()
    return found


def seconds_per_step(ranks: Ranks, encoder: Encoder, *, bfloat16: bool) -> float:
    """The least of some steps of the default batch, with the optimiser."""
    model = encoder.model.train()
    divided = DividedBatch(ranks, model, packed=True) if ranks.size > 1 else None
    loss = MaskedRankingLoss(model, temperature=0.05, packed=True, divided=divided)
    optimiser = torch.optim.AdamW(loss.parameters(), lr=1e-5)
    batch, taken = batch_of(encoder, QUERIES), []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            value = loss(*batch)
        value.backward()
        if divided:
            divided.collect()
        optimiser.step()
        taken.append(time.perf_counter() - start)
    if divided:
        ranks.scatter([None] * ranks.size)
    return min(taken)


def main() -> None:
    encoder = Encoder.load(DEFAULT_BASE_MODEL, settings=EncoderSettings(device="cpu"))
    with join_ranks(device="cpu") as ranks:
        if not ranks.is_main:
            embed_parts(ranks, encoder.model.double(), packed=False)
            encoder.model.float()
            for _ in PRECISIONS:
                embed_parts(ranks, encoder.model, packed=True)
            return
        found: dict[str, Any] = {"differences": differences(ranks, encoder)} if ranks.size > 1 else {}
        for name in PRECISIONS:
            found[name] = seconds_per_step(ranks, encoder, bfloat16=name == "bfloat16")
        print(json.dumps(found))


if __name__ == "__main__":
    main()
