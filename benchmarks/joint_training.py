"""Training single vectors and late interaction in one forward pass: the cost of a step.

    python benchmarks/joint_training.py [--check] [--out FILE]

Steps with and without the second loss alternate in one process, on the same batches. `--check` takes fewer of them.
Exits 1 if the second loss takes more than 10 % of a step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import library_first  # noqa: F401
import numpy as np
import torch
from findings import Findings
from machine import machine
from tuning import BASE

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.utils.memory import keep_freed_memory

BATCH, NEGATIVES, QUERY_WORDS, WORDS = 64, 2, 10, 100
# Each is one token of the base model, and about a fifth of the words of an English text are two, so a text of 100 words
# has 120 of them.
TOKENS_PER_WORD = 1.2
VOCABULARY = """
the of and to in is that for it as with on by this are from or have an not system error file data work time people
service request server code key disk memory user number water state world year case point company place group problem
part hand power result change question level order house book side head line end city name power law study
"""
COST = 0.10
PROJECTION = 96


def made_up_texts(count: int, *, seed: int) -> IndexedExamples:
    """Queries of 10 words; documents of 60 to 140 words, one positive and two negatives for each query."""
    rng, words = np.random.default_rng(seed), VOCABULARY.split()
    documents = [
        " ".join(rng.choice(words, int(TOKENS_PER_WORD * rng.integers(60, 141))))
        for _ in range(count * (1 + NEGATIVES))
    ]
    return IndexedExamples(
        query_ids=tuple(map(str, range(count))),
        queries=tuple(" ".join(rng.choice(words, int(TOKENS_PER_WORD * QUERY_WORDS))) for _ in range(count)),
        corpus_ids=tuple(map(str, range(len(documents)))),
        corpus=tuple(documents),
        relevant=tuple(np.array([row]) for row in range(count)),
        negatives=tuple(np.arange(count + NEGATIVES * row, count + NEGATIVES * (row + 1)) for row in range(count)),
    )


def cost_of_second_loss(*, rounds: int) -> list[tuple[str, float, float]]:
    """Return (token vectors, median seconds of a step, and their ratio to a step without) for steps that alternate."""
    encoder = Encoder.load(BASE, settings=EncoderSettings(device="cpu", precision="auto", max_seq_length=256))
    model, bfloat16 = encoder.model, encoder.settings.precision == "bfloat16"
    width = encoder.dimension
    kinds: dict[str, LateInteraction | None] = {
        "none": None,
        f"{width} dimensions": LateInteraction(weight=1.0, temperature=0.05),
        f"{PROJECTION} dimensions": LateInteraction(
            weight=1.0, temperature=0.05, projection=torch.eye(width)[:, :PROJECTION]
        ),
    }
    losses = {
        name: MaskedRankingLoss(model, temperature=0.05, packed=True, late_interaction=late)
        for name, late in kinds.items()
    }
    model.train()
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        examples = made_up_texts(BATCH, seed=number)
        batch = BatchCollator(model.preprocess, examples, NEGATIVES, "", "")([{"example": n} for n in range(BATCH)])
        blocks = [
            {key.removeprefix(f"{role}_"): value for key, value in batch.items() if key.startswith(f"{role}_")}
            for role in ("query", "document")
        ]
        for name, loss in losses.items():
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                loss(blocks, batch["label"]).backward()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            loss.zero_grad()
    plain = seconds["none"]
    # A pair of neighbouring steps shares what else the machine does, so the median of their ratios is steadier.
    return [
        (
            name,
            statistics.median(taken),
            statistics.median(one / other for one, other in zip(taken, plain, strict=True)),
        )
        for name, taken in seconds.items()
    ]


def cost(findings: Findings, *, rounds: int) -> None:
    rows = []
    for name, seconds, ratio in cost_of_second_loss(rounds=rounds):
        rows.append(f"| {name} | {seconds:.2f} | {ratio - 1:+.1%} |")
        if name != "none":
            findings.ask(f"second loss over {name} {ratio - 1:+.1%} of a step (asked {COST:.0%})", ratio - 1 <= COST)
    findings.section(
        f"A step of {BATCH} queries with {NEGATIVES} negatives each, documents of {WORDS} words",
        "| token vectors | seconds | more time |",
        rows,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="fewer steps")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    keep_freed_memory()
    findings = Findings()
    cost(findings, rounds=5 if options.check else 15)
    return findings.close("Joint training", machine("torch", "sentence-transformers", "numpy"), options.out)


if __name__ == "__main__":
    sys.exit(main())
