"""Re-ranking with token vectors (MaxSim): accuracy and bytes by dimension, bits, merging and pooling; latency.

    python benchmarks/late_interaction.py --data FOLDER [--check] [--only PART ...] [--sets NAME ...] [--out FILE]
        [--kept FILE]

FOLDER holds retrieval sets in BEIR layout (and `ace`, a test suite). The model is the untrained base, so that no run is
needed. Candidates are the first 100 of its vectors and the first 100 of BM25. `--check` takes two sets and the stored
form that is the default; with `--kept` an interrupted call is resumed. Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from findings import Findings
from kept import Kept
from late_interaction_served import DISTINCT_TOKENS, measure_served
from machine import machine
from sets import load
from tuning import BASE

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.late_interaction.max_sim import max_sim, max_sim_scores
from llama_index_ace_finetune.late_interaction.projection import principal_projection
from llama_index_ace_finetune.late_interaction.quantization import packed_bytes
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_pooling import merge_repeated, pool_tokens
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k, unit_rows
from llama_index_ace_finetune.utils.memory import keep_freed_memory

SETS = ("msvc_errors", "ace", "medquad", "nl2bash", "locomo", "cosqa", "scifact")
CHECKED = ("msvc_errors", "ace")
PARTS = ("latency", "accuracy")
DIMENSIONS, BITS, POOLINGS = (384, 256, 208, 128, 96), (8, 4, 2), (2, 3)
QUERIES, DEPTH, CUTOFF = 150, 100, 10
MAX_LOSS, MAX_BYTES, MAX_MS = 0.005, 4096, 6.0
MEMORIES, WORDS, TOKENS_PER_WORD, QUERY_TOKENS = 10_000, 100, 1.35, 20
TOKENS = int(WORDS * TOKENS_PER_WORD)
LONG = (80, 120)  # words of the memories whose share of distinct tokens is that of a memory of 100 words


@dataclass(frozen=True)
class Candidates:
    """A set's test queries and their candidates, with token vectors of all dimensions.

    candidates: rows of `memories`, int [n, 200], padded with -1; relevant: bool of the same shape; words: mean per
    memory; distinct: distinct tokens over tokens of memories of about 100 words (NaN if there are none); legs: MRR@10
    of the rankings that the candidates come from.
    """

    queries: TokenVectors
    memories: TokenVectors
    candidates: np.ndarray
    relevant: np.ndarray
    words: float
    distinct: float
    legs: dict[str, float]

    def mrr(self, scores: np.ndarray) -> float:
        """MRR@10 of the candidates ordered by score; ties by row."""
        scores = np.where(self.candidates >= 0, scores, -2)
        order = np.lexsort((self.candidates, -scores), axis=1)[:, :CUTOFF]
        hits = np.take_along_axis(self.relevant, order, axis=1)
        return float(np.mean(np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0)))


def prepare(folder: Path, name: str, encoder: Encoder) -> Candidates:
    dataset = load(folder, name)
    test = list(split_dataset(dataset).test)
    test = [test[place] for place in np.linspace(0, len(test) - 1, min(len(test), QUERIES)).astype(int)]
    ids = list(dataset.answers)
    texts = [dataset.answers[identifier].text for identifier in ids]
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    asked = [dataset.queries[query].text for query in test]
    tokens = TokenEncoder(encoder)
    query_vectors, queries = tokens.encode_both(asked, role="query")
    vectors, memories = tokens.encode_both(texts, role="document")
    dense, _ = dense_top_k(query_vectors, vectors, DEPTH)
    bm25 = BM25Index.build(texts)
    found = [bm25.search(query, DEPTH)[0] for query in asked]
    candidates = np.full((len(test), 2 * DEPTH), -1, np.int64)
    relevant = np.zeros_like(candidates, bool)
    firsts: dict[str, list[float]] = {"dense": [], "BM25": []}
    for row, query in enumerate(test):
        union = np.union1d(dense[row], found[row])
        candidates[row, : len(union)] = union
        wanted = [row_of[identifier] for identifier in dataset.relevant(query) if identifier in row_of]
        relevant[row, : len(union)] = np.isin(union, wanted)
        for leg, ranking in (("dense", dense[row]), ("BM25", found[row])):
            hits = np.flatnonzero(np.isin(ranking[:CUTOFF], wanted))
            firsts[leg].append(1 / (1 + hits[0]) if len(hits) else 0.0)
    used = np.unique(candidates[candidates >= 0])
    place = np.full(len(texts), -1)
    place[used] = np.arange(len(used))
    counts = np.array([len(texts[row].split()) for row in used])
    long = memories.select(used[(counts >= LONG[0]) & (counts <= LONG[1])])
    distinct = len(merge_repeated(long).vectors) / len(long.vectors) if len(long) else float("nan")
    candidates = np.where(candidates >= 0, place[candidates], -1)
    legs = {leg: float(np.mean(ranks)) for leg, ranks in firsts.items()}
    words = float(counts.mean())
    return Candidates(queries, memories.select(used), candidates, relevant, words, distinct, legs)


def project(tokens: TokenVectors, projection: np.ndarray) -> TokenVectors:
    return TokenVectors(unit_rows(tokens.vectors @ projection), tokens.offsets, tokens.token_ids)


def stored(tokens: TokenVectors, bits: int) -> TokenStore:
    store = TokenStore(tokens.dimension, "", settings=TokenSettings(bits=bits, merge_repeated=False))
    store.upsert([str(row) for row in range(len(tokens))], tokens)
    return store


Form = tuple[int, int, bool, int]
"""Dimension, bits, whether repeated tokens are merged, and tokens per vector."""


def measure(folder: Path, name: str, forms: list[Form]) -> dict[str, Any]:
    """Return MRR@10 of both legs, with full token vectors, and in each form."""
    found = prepare(folder, name, Encoder.load(BASE, settings=EncoderSettings(device="cpu", precision="auto")))
    full = found.mrr(max_sim_scores(found.queries, found.memories, found.candidates))
    results = {}
    for dimension, at_dimension in itertools.groupby(forms, key=lambda form: form[0]):
        sample = found.memories.vectors[:: max(1, len(found.memories.vectors) // 100_000)]
        projection = principal_projection(sample, dimension)
        queries, memories = project(found.queries, projection), project(found.memories, projection)
        for (merged, pooling), alike in itertools.groupby(at_dimension, key=lambda form: form[2:]):
            fewer = pool_tokens(merge_repeated(memories) if merged else memories, pooling)
            for form in alike:
                store = stored(fewer, form[1])
                results[str(form)] = found.mrr(max_sim_scores(queries, store.tokens, found.candidates))
    sizes = {"queries": len(found.queries), "words": found.words, "distinct": found.distinct}
    return {**sizes, **found.legs, "full": full, "forms": results}


def accuracy(folder: Path, names: tuple[str, ...], forms: list[Form], findings: Findings, kept: Kept) -> None:
    rows: list[str] = []
    losses: dict[Form, list[float]] = {form: [] for form in forms}
    distinct = []
    for name in names:
        found = kept.measure(f"{name} {len(forms)}", lambda name=name: measure(folder, name, forms))
        distinct.append(found["distinct"])
        legs = " | ".join(f"{found[leg]:.3f}" for leg in ("dense", "BM25", "full"))
        rows.append(f"| {name} | {found['queries']} | {found['words']:.0f} | {legs} |")
        print(rows[-1], flush=True)
        for form in forms:
            losses[form].append(found["full"] - found["forms"][str(form)])
    header = "| set | queries | words per memory | base MRR@10 | BM25 MRR@10 | re-ranked by full token vectors |"
    findings.section("Re-ranking the first 100 of the base model and of BM25, without training", header, rows)
    share = float(np.nanmean(distinct))
    rows = [
        f"| {form[0]} | {form[1]} | {'yes' if form[2] else 'no'} | {form[3]} | {bytes_of(form, share):,} "
        f"| {np.mean(losses[form]):+.4f} | {max(losses[form]):+.4f} ({names[int(np.argmax(losses[form]))]}) |"
        for form in forms
    ]
    header = (
        "| dimension | bits | repeated tokens merged | pooling | bytes per memory of 100 words | mean loss of MRR@10 "
        "| largest loss |"
    )
    findings.section(f"Loss against full token vectors, mean of {len(names)} sets", header, rows)
    close = [form for form in forms if np.mean(losses[form]) < MAX_LOSS]
    size = min((bytes_of(form, share) for form in close), default=math.inf)
    what = f"fewest bytes per memory of 100 words with a mean loss of MRR@10 under {MAX_LOSS}"
    findings.ask(f"{what}: {size:,.0f} (asked {MAX_BYTES:,})", size <= MAX_BYTES)
    loss = float(np.mean(losses[default_form()]))
    findings.ask(f"default, mean loss of MRR@10 {loss:.4f} (asked {MAX_LOSS})", loss < MAX_LOSS)


def bytes_of(form: Form, distinct: float) -> int:
    """Bytes of a memory of 100 English words, of whose tokens this share is distinct."""
    dimension, bits, merged, pooling = form
    tokens = round(TOKENS * distinct) if merged else TOKENS
    vectors = 1 + (tokens - 1) // pooling  # the first is never pooled
    return vectors * (packed_bytes(dimension, bits) + 2) + 8


def default_form() -> Form:
    default = TokenSettings()
    dimension = default.dimension or 384
    return dimension, default.bits_at(dimension), default.merge_repeated, default.pooling


def latency(findings: Findings) -> None:
    dimension, bits, _, _ = default_form()
    length = DISTINCT_TOKENS
    rng = np.random.default_rng(0)

    def made_up(texts: int, tokens: int) -> TokenVectors:
        vectors = rng.standard_normal((texts * tokens, dimension), dtype=np.float32)
        return TokenVectors(unit_rows(vectors), np.arange(texts + 1, dtype=np.int64) * tokens)

    queries = made_up(100, QUERY_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        store = TokenStore(dimension, "", settings=TokenSettings(bits=bits))
        tokens = made_up(MEMORIES // 10, length)  # ten memories share each, which costs the same
        for first in range(0, MEMORIES, len(tokens)):
            store.upsert([str(row) for row in range(first, first + len(tokens))], tokens)
        store = store.save(Path(folder) / "tokens")
        ids = store.tokens.ids
        times = []
        for query in range(100):
            chosen = [ids[row] for row in rng.choice(MEMORIES, DEPTH, replace=False)]
            start = time.perf_counter()
            state = store.tokens
            max_sim(queries[query], state, state.rows(chosen))
            times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        max_sim_scores(queries.select(np.arange(50)), store.tokens, rng.integers(0, MEMORIES, (50, 300)))
        batch = time.perf_counter() - start
    p50, p95 = statistics.median(times), float(np.percentile(times, 95))
    header = "| memories | stored vectors per memory | re-ranked | p50, ms | p95, ms | 50 queries x 300 candidates, s |"
    row = f"| {MEMORIES:,} | {length} | {DEPTH} | {p50:.2f} | {p95:.2f} | {batch:.1f} |"
    findings.section("Latency of re-ranking, without encoding", header, [row])
    findings.ask(f"re-ranking {DEPTH} of {MEMORIES:,}, p50 {p50:.2f} ms (asked {MAX_MS})", p50 < MAX_MS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets")
    parser.add_argument("--check", action="store_true", help=f"{' and '.join(CHECKED)} only, in the default form")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table")
    parser.add_argument("--sets", nargs="*", default=SETS, help="names of sets")
    parser.add_argument("--kept", type=Path, help="file of the figures measured so far, to resume from")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    keep_freed_memory()
    findings = Findings()
    if "latency" in options.only:
        latency(findings)
        measure_served((10_000,) if options.check else (10_000, 100_000), findings)
    # Clustering takes most of the time, so that other dimensions than the default are measured without it.
    default = default_form()
    others = [(False, 1), (True, 1), *((True, pooling) for pooling in POOLINGS)]
    forms = [
        (dimension, bits, merged, pooling)
        for dimension in DIMENSIONS
        for merged, pooling in (others if dimension == default[0] else [(True, 1)])
        for bits in BITS
    ]
    forms = [default] if options.check else forms
    if "accuracy" in options.only:
        accuracy(options.data, CHECKED if options.check else tuple(options.sets), forms, findings, Kept(options.kept))
    threads = f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', '-')}"
    return findings.close("Late interaction", f"{machine('numpy', 'scipy', 'torch')}; {threads}", options.out)


if __name__ == "__main__":
    sys.exit(main())
