"""Two ranks: differences of gradients between a divided batch and one process, by case, as JSON on standard output.

    python -m tests.training.divided_gradients MODEL float32|float64

Started by the tests with the environment of torchrun.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.false_negatives import FalseNegativeMask
from llama_index_ace_finetune.training.loop.embed_parts import embed_parts
from llama_index_ace_finetune.training.losses.divided_batch import DividedBatch
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.ranks import join_ranks

COUNT = 40
WORDS = [
    "retry",
    "upload",
    "after",
    "timeout",
    "disk",
    "full",
    "cache",
    "key",
    "lost",
    "lock",
    "held",
    "writer",
    "index",
]


def examples() -> IndexedExamples:
    """40 queries over 30 documents of 3 to 22 words, two positives for some, three negatives each."""
    rng = np.random.default_rng(0)

    def text(longest: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(3, longest)))

    documents = 30
    return IndexedExamples(
        query_ids=tuple(f"q{n}" for n in range(COUNT)),
        queries=tuple(f"{n} {text(9)}" for n in range(COUNT)),
        corpus_ids=tuple(f"m{n}" for n in range(documents)),
        corpus=tuple(f"{n} {text(23)}" for n in range(documents)),
        relevant=tuple(np.array([n % documents, (n + 7) % documents][: 1 + n % 2], np.int64) for n in range(COUNT)),
        negatives=tuple(np.array([(n + step) % documents for step in (1, 2, 3)], np.int64) for n in range(COUNT)),
    )


def batches(encoder: Encoder) -> dict[str, dict[str, Any]]:
    """A batch of clusters with masks, teacher and weights, one drawn at random, and one of a single query."""
    data = examples()
    queries, documents = encoder.encode_queries(data.queries), encoder.encode_documents(data.corpus)
    plain = BatchCollator(encoder.model.preprocess, data, 2, "", "")
    masked = replace(plain, false_negatives=FalseNegativeMask(queries, documents, data.relevant, 0.02))
    positives = np.array([int(rows[0]) for rows in data.relevant])
    clusters = next(iter(ClusteredBatches(queries, positives, batch_size=16, cluster_size=4, seed=0)))
    scores = [{int(row): float(queries[n] @ documents[row]) for row in range(20)} for n in range(COUNT)]
    weights = np.where(np.arange(COUNT) % 3 == 0, 0.5, 1).astype(np.float32)

    def batch(collator: BatchCollator, numbers: list[int]) -> dict[str, Any]:
        return collator([{"example": number} for number in numbers])

    found = {
        "random": batch(plain, list(range(0, COUNT, 3))),
        "clusters": batch(masked, clusters),
        "teacher": batch(replace(masked, teacher=scores), clusters),
        "weights": batch(replace(plain, weights=weights), clusters),
        "one": batch(replace(plain, hard_negatives=1), [3]),
    }
    assert (found["clusters"]["label"] == -1).any()
    return found


CASES: dict[str, tuple[str, dict[str, Any], ChunkLimits]] = {
    "plain": ("random", {}, ChunkLimits()),
    "gradient caching": ("random", {}, ChunkLimits(max_cached_tokens=0, chunk_tokens=64)),
    "clusters and masks": ("clusters", {}, ChunkLimits()),
    "clusters and masks, gradient caching": ("clusters", {}, ChunkLimits(max_cached_tokens=0, chunk_tokens=64)),
    "teacher": ("teacher", {}, ChunkLimits()),
    "weights": ("weights", {}, ChunkLimits()),
    "symmetric, dimensions": ("clusters", {"symmetric": True, "dimensions": (16, 8)}, ChunkLimits()),
    "one query": ("one", {}, ChunkLimits()),
    "late interaction": ("clusters", {"late": True}, ChunkLimits(max_cached_tokens=0, chunk_tokens=64)),
}


def compute(model: Any, batch: dict[str, Any], options: dict[str, Any], limits: ChunkLimits, divided: Any) -> Any:
    """Return the loss and the gradients by name."""
    options = dict(options)
    late = None
    if options.pop("late", False):
        projection = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
        late = LateInteraction(weight=0.5, temperature=0.05, projection=projection)
    loss = MaskedRankingLoss(model, temperature=0.05, late_interaction=late, divided=divided, **options)
    loss.memory = replace(limits)
    blocks = [
        {name.removeprefix(f"{role}_"): value for name, value in batch.items() if name.startswith(f"{role}_")}
        for role in ("query", "document")
    ]
    loss.zero_grad(set_to_none=True)
    value = loss(blocks, batch["label"])
    value.backward()
    if divided:
        divided.collect()
    return value.item(), {n: p.grad.clone() for n, p in loss.named_parameters() if p.grad is not None}


def main() -> None:
    torch.set_num_threads(1)
    encoder = Encoder.load(sys.argv[1], settings=EncoderSettings(device="cpu"))
    model = encoder.model.eval()  # no dropout, which draws other values in parts
    precision = getattr(torch, sys.argv[2])
    with join_ranks(device="cpu") as ranks:
        if not ranks.is_main:
            model.to(precision)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(1)  # they come from rank 0
            embed_parts(ranks, model, packed=False)
            return
        made, found = batches(encoder), {}
        divided = DividedBatch(ranks, model.to(precision), packed=False)
        for name, (batch, options, limits) in CASES.items():
            one, alone = compute(model, made[batch], options, limits, None)
            two, together = compute(model, made[batch], options, limits, divided)
            assert alone.keys() == together.keys()
            assert one > 0
            found[name] = {
                "loss": abs(one - two),
                "gradient": max(float((alone[n] - together[n]).abs().max()) for n in alone),
                "largest": max(float(alone[n].abs().max()) for n in alone),
            }
            with torch.no_grad():  # as an optimiser does
                for weight in model.parameters():
                    weight.mul_(1.01)
        ranks.scatter([None] * ranks.size)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
