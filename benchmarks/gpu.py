"""Whether a GPU gives the results of the CPU, and how much faster: encoding, mining, steps and modes of training.

    python benchmarks/gpu.py [--check] [--out FILE]

The CPU computes in float32; the GPU in float32, in bfloat16 and with a compiled model. Texts are synthetic, the model
is the untrained base. `--check` runs everything at a tiny size, on the CPU only, in some minutes; so does a machine
without a GPU. Takes under ten minutes on one GPU. Exits 1 if a difference is larger than its tolerance.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
import torch
from findings import Findings
from joint_training import VOCABULARY
from machine import machine
from torch import Tensor, nn
from tuning import BASE

from llama_index_ace_finetune import MRR, EmbeddingFineTuner, HardNegativeMiner, TrainingConfig, TrainingData
from llama_index_ace_finetune.datasets.training_data import TrainingExample
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.losses.full_corpus import pad_rows
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.modes.query_encoder import QueryCollator, QueryEncoderLoss
from llama_index_ace_finetune.utils.memory import keep_freed_memory

# Largest 1 - cosine of vectors, and relative differences of gradients, in float32 and bfloat16.
VECTORS = {"float32": 1e-5, "bfloat16": 2e-3}
GRADIENTS = {"float32": 1e-3, "bfloat16": 1e-1}
SAME_NEGATIVES = {"float32": 0.99, "bfloat16": 0.85}
MRR_DIFFERENCE = 0.05
NEGATIVES, WORDS, QUERY_WORDS = 2, 80, 8


@dataclass(frozen=True)
class Place:
    """A device, a precision, and whether the model is compiled."""

    device: str
    precision: Any = "float32"
    backend: str | None = None

    @property
    def cells(self) -> str:
        return f"{self.device} | {self.precision}{', compiled' if self.backend else ''}"

    @property
    def name(self) -> str:
        return self.cells.replace(" |", "")

    def encoder(self) -> Encoder:
        encoder = Encoder.load(BASE, settings=EncoderSettings(device=self.device, precision=self.precision))
        if self.backend:
            encoder.model[0].auto_model.compile(backend=self.backend, dynamic=True)
        return encoder

    def wait(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Sizes:
    """Texts to encode on the CPU and on a GPU; queries of a batch, rounds, training queries, and epochs."""

    texts: int = 512
    more_texts: int = 20_000
    batch: int = 64
    rounds: int = 5
    queries: int = 400
    epochs: int = 2


TINY = Sizes(texts=24, more_texts=24, batch=4, rounds=1, queries=40, epochs=1)


def places(*, gpu: bool) -> list[Place]:
    """The CPU in float32, with which the others are compared, then these."""
    if not gpu:
        return [Place("cpu"), Place("cpu", "bfloat16"), Place("cpu", "float32", "eager")]
    others = [Place("cuda", "float32"), Place("cuda", "bfloat16"), Place("cuda", "bfloat16", "inductor")]
    return [
        Place("cpu"),
        *[place for place in others if place.precision == "float32" or torch.cuda.is_bf16_supported()],
    ]


def documents(count: int) -> list[str]:
    rng, words = np.random.default_rng(0), VOCABULARY.split()
    return [" ".join(rng.choice(words, int(rng.integers(WORDS // 2, 2 * WORDS)))) for _ in range(count)]


def examples_of(count: int) -> IndexedExamples:
    """Queries of words of their positive, which is one of as many documents, and random negatives."""
    rng, texts = np.random.default_rng(1), documents(count)
    return IndexedExamples(
        query_ids=tuple(f"q{row}" for row in range(count)),
        queries=tuple(" ".join(rng.choice(sorted(set(text.split())), QUERY_WORDS)) for text in texts),
        corpus_ids=tuple(f"m{row}" for row in range(count)),
        corpus=tuple(texts),
        relevant=tuple(np.array([row]) for row in range(count)),
        negatives=tuple((row + 1 + np.arange(NEGATIVES)) % count for row in range(count)),
    )


def encoding(findings: Findings, chosen: list[Place], sizes: Sizes) -> None:
    """Vectors of texts, and token vectors."""
    rows, texts = [], documents(sizes.more_texts)
    reference: tuple[np.ndarray, np.ndarray] | None = None
    for place in chosen:
        encoder = place.encoder()
        some = texts[: sizes.texts]
        vectors, tokens = TokenEncoder(encoder).encode_both(some, role="document")
        measured = some if place.device == "cpu" else texts
        encoder.encode_documents(measured[:64])  # warms up
        taken = seconds(lambda e=encoder, t=measured: e.encode_documents(t), place)
        taken_tokens = seconds(partial(TokenEncoder(encoder).encode_documents, some), place)
        reference = reference or (vectors, tokens.vectors)
        apart = 1 - float((vectors * reference[0]).sum(axis=1).min())
        apart_tokens = 1 - float((tokens.vectors * reference[1]).sum(axis=1).mean())
        rows.append(
            f"| {place.cells} | {len(measured) / taken:,.0f} | {apart:.1e} | {len(some) / taken_tokens:,.0f} "
            f"| {apart_tokens:.1e} |"
        )
        least = VECTORS[place.precision]
        findings.ask(f"vectors on {place.name} differ by {apart:.1e} (at most {least})", apart <= least)
        findings.ask(f"token vectors on {place.name} by {apart_tokens:.1e}", apart_tokens <= 5 * least)
    findings.section(
        f"Encoding documents of about {WORDS} words",
        "| device | precision | texts/s | largest 1 - cosine | texts/s with tokens | mean 1 - cosine of tokens |",
        rows,
    )


def steps(findings: Findings, chosen: list[Place], sizes: Sizes) -> None:
    """Forward and backward of one batch by each loss, without dropout."""
    rows, examples = [], examples_of(4 * sizes.batch)
    base = chosen[0].encoder().encode_documents(list(examples.corpus))
    for name, make in LOSSES.items():
        reference: Tensor | None = None
        for place in chosen:
            encoder = place.encoder()
            model = encoder.model.eval()
            packed = PackedEncoder.supports(model)
            loss, batch = make(model, examples, base, packed, sizes.batch)
            loss.to(model.device)
            step = partial(gradients, loss, batch, place)
            found = step()
            taken = statistics.median(seconds(step, place) for _ in range(sizes.rounds))
            reference = found if reference is None else reference
            apart = float((found - reference).norm() / reference.norm())
            rows.append(f"| {name} | {place.cells} | {taken * 1000:,.0f} | {apart:.1e} |")
            most = GRADIENTS[place.precision]
            findings.ask(f"gradients of {name} on {place.name} differ by {apart:.1e} (at most {most})", apart <= most)
    findings.section(
        f"A step of {sizes.batch} queries", "| loss | device | precision | ms | difference of gradients |", rows
    )


Made = tuple[nn.Module, dict[str, Any]]


def _full(model: Any, examples: IndexedExamples, base: np.ndarray, packed: bool, batch: int, *, late: bool) -> Made:
    second = LateInteraction(weight=1.0, temperature=0.05) if late else None
    loss = MaskedRankingLoss(model, temperature=0.05, packed=packed, late_interaction=second)
    collator = BatchCollator(model.preprocess, examples, NEGATIVES, "", "")
    return loss, collator([{"example": number} for number in range(batch)])


def _queries(model: Any, examples: IndexedExamples, base: np.ndarray, packed: bool, batch: int) -> Made:
    matrix = np.eye(base.shape[1], dtype=np.float32)
    loss = QueryEncoderLoss(
        model, base, pad_rows(examples.relevant), near=None, matrix=matrix, temperature=0.05, packed=packed
    )
    return loss, QueryCollator(model.preprocess, examples, "")([{"example": number} for number in range(batch)])


LOSSES: dict[str, Callable[..., Made]] = {
    "full": partial(_full, late=False),
    "full with late interaction": partial(_full, late=True),
    "queries": _queries,
}


def gradients(loss: nn.Module, batch: dict[str, Any], place: Place) -> Tensor:
    """Return all gradients of a step as one float32 vector on the CPU."""
    blocks = [
        {
            name.removeprefix(f"{role}_"): value.to(place.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
            if name.startswith(f"{role}_")
        }
        for role in ("query", "document")
    ]
    loss.zero_grad(set_to_none=True)
    with torch.autocast(place.device, dtype=torch.bfloat16, enabled=place.precision == "bfloat16"):
        value = loss([block for block in blocks if block], batch["label"].to(place.device))
    value.backward()
    found = [weight.grad.float().cpu().flatten() for weight in loss.parameters() if weight.grad is not None]
    return torch.cat(found)


def modes(findings: Findings, chosen: list[Place], sizes: Sizes) -> None:
    """Whole trainings by the public classes: linear, queries and full, with and without late interaction."""
    rows, examples = [], examples_of(sizes.queries)
    data = TrainingData(
        examples=tuple(
            TrainingExample(examples.query_ids[row], text, (f"m{row}",), split="dev" if row % 4 == 0 else "train")
            for row, text in enumerate(examples.queries)
        ),
        memories=dict(zip(examples.corpus_ids, examples.corpus, strict=True)),
    )
    for name, settings in MODES.items():
        reference: float | None = None
        for place in [place for place in chosen if place.backend is None]:
            with tempfile.TemporaryDirectory() as folder:
                config = TrainingConfig(
                    output_dir=str(Path(folder) / "model"),
                    device=place.device,
                    precision=place.precision,
                    epochs=sizes.epochs,
                    budget_minutes=None,
                    **settings,
                )
                tuner = EmbeddingFineTuner(config)
                tuner.load_training_data(data)
                tuner.initialize_model()
                taken = seconds(tuner.train, place)
                shown = tuner.evaluate()
            mrr = shown[str(MRR(10))]
            reference = mrr if reference is None else reference
            rows.append(f"| {name} | {place.cells} | {taken:.1f} | {mrr:.3f} |")
            findings.ask(
                f"mode {name} on {place.name}: dev MRR@10 {mrr - reference:+.3f} (at most ±{MRR_DIFFERENCE})",
                abs(mrr - reference) <= MRR_DIFFERENCE,
            )
    findings.section(
        f"Training on {sizes.queries * 3 // 4} queries", "| mode | device | precision | s | dev MRR@10 |", rows
    )


MODES: dict[str, dict[str, Any]] = {
    "linear": {"mode": "linear"},
    "queries": {"mode": "queries"},
    "full": {"mode": "full"},
    "full with late interaction": {"mode": "full", "late_interaction_weight": 1.0},
}


def mining(findings: Findings, chosen: list[Place], sizes: Sizes) -> None:
    """Negatives by the public class."""
    rows, examples = [], examples_of(sizes.queries)
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.csv"
        lines = [f"{query},{text}" for query, text in zip(examples.queries, examples.corpus, strict=True)]
        pairs.write_text("\n".join(["query,text", *lines]), encoding="utf-8")
        dataset = read_dataset(pairs)
    reference: dict[str, set[str]] | None = None
    for place in [place for place in chosen if place.backend is None]:
        with HardNegativeMiner(model=BASE, device=place.device, precision=place.precision) as miner:
            start = time.perf_counter()
            mined = miner.mine(dataset, list(dataset.queries), count=5)
            taken = time.perf_counter() - start
        found = {query: {negative.memory_id for negative in negatives} for query, negatives in mined.items()}
        reference = reference or found
        total = sum(map(len, reference.values()))
        same = sum(len(found[query] & negatives) for query, negatives in reference.items()) / max(total, 1)
        rows.append(f"| {place.cells} | {taken:.1f} | {same:.1%} |")
        least = SAME_NEGATIVES[place.precision]
        findings.ask(f"{same:.1%} of the negatives on {place.name} are the same (at least {least:.0%})", same >= least)
    findings.section(
        f"Mining for {sizes.queries} queries", "| device | precision | s with loading | same negatives |", rows
    )


def seconds(work: Callable[[], Any], place: Place) -> float:
    place.wait()
    start = time.perf_counter()
    work()
    place.wait()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="a tiny size, on the CPU only")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    keep_freed_memory()
    gpu = torch.cuda.is_available() and not options.check
    if not gpu:
        why = "--check" if options.check else "no GPU is available to torch"
        print(f"{why}: everything is run at a tiny size on the CPU, so that it is known to work\n", flush=True)
    chosen, sizes, findings = places(gpu=gpu), Sizes() if gpu else TINY, Findings()
    begun = time.perf_counter()
    for part in (encoding, steps, mining, modes):
        part(findings, chosen, sizes)
    name = torch.cuda.get_device_name() if gpu else "no GPU"
    print(f"{time.perf_counter() - begun:.0f} s\n")
    return findings.close(
        "CPU and GPU", f"{name}; {machine('torch', 'sentence-transformers', 'transformers')}", options.out
    )


if __name__ == "__main__":
    sys.exit(main())
