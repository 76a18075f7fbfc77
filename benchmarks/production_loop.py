"""A simulated loop: serve, log clicks with position bias, harvest, train; with and without the correction for rank.

Users ask each query several times and see the best ten memories. They see rank r with probability 1/r, and click a
seen memory with probability .8 if it is relevant and .1 if not. The served system is dense retrieval by the base model
with the query adapter of the round before. A third of the queries arrives in each round; the test queries never do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from findings import Findings
from sets import load

from llama_index_ace_finetune import (
    Encoder,
    FeedbackRecord,
    HarvestSettings,
    LoggedHit,
    LogSettings,
    QueryLog,
    RetrievalRecord,
    SplitSettings,
    harvest,
    read_dataset,
    split_dataset,
)
from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.training.modes.linear_adapter import fit_query_adapter
from llama_index_ace_finetune.training.modes.query_encoder import apply_adapter

SETS, ROUNDS, SHOWN, SESSIONS = ("msvc_errors", "nl2bash"), 3, 10, 10
CLICK_RELEVANT, CLICK_OTHER = 0.8, 0.1
FORMS: Mapping[str, HarvestSettings | None] = {
    "with the correction": HarvestSettings(position_bias=1.0),
    "without it": HarvestSettings(position_bias=0.0),
    "true judgements": None,
}


class World:
    """A set: its vectors, its test queries, and the queries that users ask, by round."""

    def __init__(self, data: Path, name: str, queries: int) -> None:
        self.dataset = load(data, name)
        self.split = split_dataset(self.dataset, settings=SplitSettings(train=0.75, dev=0.0, test=0.25))
        self.asked = [str(q) for q in np.random.default_rng(0).permutation(sorted(self.split.train))[:queries]]
        self.test = sorted(self.split.test)[:1000]
        self.answers = list(self.dataset.answers)
        self.row = {answer: row for row, answer in enumerate(self.answers)}
        encoder = Encoder.load(DEFAULT_BASE_MODEL)
        self.documents = encoder.encode_documents([self.dataset.memories[a].text for a in self.answers])
        ids = [*self.asked, *self.test]
        vectors = encoder.encode_queries([self.dataset.queries[q].text for q in ids])
        self.vectors = dict(zip(ids, vectors, strict=True))

    def relevant(self, query_id: str) -> np.ndarray:
        return np.array(sorted(self.row[a] for a in self.dataset.relevant(query_id)), np.int64)

    def rank(self, query_ids: list[str], matrix: np.ndarray | None, k: int = SHOWN) -> np.ndarray:
        vectors = np.stack([self.vectors[q] for q in query_ids])
        moved = vectors if matrix is None else apply_adapter(vectors, matrix)
        return dense_top_k(moved, self.documents, k)[0]

    def mrr(self, matrix: np.ndarray | None) -> float:
        found = []
        for query_id, rows in zip(self.test, self.rank(self.test, matrix), strict=True):
            hits = np.flatnonzero(np.isin(rows, self.relevant(query_id)))
            found.append(1 / (1 + hits[0]) if len(hits) else 0.0)
        return float(np.mean(found))


def simulate_loop(settings: Any, findings: Findings) -> None:
    rows, gains, leaks = [], {}, 0
    names = SETS[:1] if settings.check else SETS
    for name in names:
        world = World(settings.data, name, 600 if settings.check else 3000)
        base = world.mrr(None)
        for form, harvested in FORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                figures, positives, correct, leaked = run_loop(world, Path(folder), harvested)
            leaks += leaked
            gains[name, form] = figures[-1] - base
            cells = " | ".join(f"{figure:.3f}" for figure in figures)
            rows.append(f"| {name} | {form} | {base:.3f} | {cells} | {positives:,} | {correct:.2f} |")
    rounds = " | ".join(f"round {number}" for number in range(1, ROUNDS + 1))
    header = f"| set | positives | base | {rounds} | harvested | of these relevant |"
    findings.section("Test MRR@10 after each round of a simulated loop", header, rows)
    for name in names:
        gain = gains[name, "with the correction"]
        findings.ask(f"{name}: the loop gains {gain:+.3f} (asked 0 or more)", gain >= 0)
    findings.ask(f"{leaks} leaks between train, dev and test (asked 0)", leaks == 0)


def run_loop(world: World, folder: Path, settings: HarvestSettings | None) -> tuple[list[float], int, float, int]:
    """Return test MRR@10 after each round, the last round's positives, the fraction of them that is relevant, leaks."""
    run = write_run(world, folder)
    random, matrix, figures = np.random.default_rng(1), None, []
    positives, correct, leaks = 0, 1.0, 0
    with QueryLog.open(folder / "queries.db", LogSettings(keep_days=None, max_bytes=None)) as log:
        for served in np.array_split(np.array(world.asked), ROUNDS):
            serve(world, [str(q) for q in served], matrix, log, random, judged=settings is None)
            result = harvest(log.path, folder / "data.jsonl", run=run, settings=settings)
            dataset = read_dataset(result.path, result.memories)
            split = split_dataset(dataset, settings=SplitSettings(train=0.8, dev=0.2, test=0.0))
            leaks += not audit_split(dataset, split).passed
            leaks += len(held_out(world) & {text_hash(dataset.memories[a].text) for a in split.answers["train"]})
            matrix = train(world, dataset, split)
            figures.append(world.mrr(matrix))
    by_text = {world.dataset.queries[q].text: q for q in world.asked}
    pairs = [(by_text[dataset.queries[q].text], a) for q in dataset.queries for a in dataset.relevant(q)]
    positives = len(pairs)
    correct = sum(answer in world.dataset.relevant(query_id) for query_id, answer in pairs) / positives
    return figures, positives, correct, leaks


def held_out(world: World) -> set[str]:
    return {text_hash(world.dataset.memories[a].text) for a in world.split.answers["test"]}


def write_run(world: World, folder: Path) -> Path:
    """What a harvest reads of a run: nothing was trained on yet, and the test queries are held out."""
    run = folder / "run"
    run.mkdir()
    data = folder / "memories.jsonl"
    rows = [{"id": a, "text": world.dataset.memories[a].text} for a in world.answers]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = SplitSettings(train=0.75, dev=0.0, test=0.25)
    Split.of(world.dataset, {"test": world.split.test}, settings).save(run / "split.json")
    manifest = {"format_version": 2, "data": str(data), "memories": None, "columns": None}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


def serve(
    world: World, query_ids: list[str], matrix: np.ndarray | None, log: QueryLog, random: Any, *, judged: bool
) -> None:
    """Log each session and its clicks; `judged` logs the true judgements of what was shown instead."""
    seen = 1 / np.arange(1, SHOWN + 1)
    for query_id, rows in zip(query_ids, world.rank(query_ids, matrix), strict=True):
        relevant = np.isin(rows, world.relevant(query_id))
        hits = tuple(LoggedHit(node_id=world.answers[row], rank=rank) for rank, row in enumerate(rows, start=1))
        for session in range(1 if judged else SESSIONS):
            name = f"{query_id} {session}"
            log.write(
                RetrievalRecord(
                    query_id=name, time=0.0, query=world.dataset.queries[query_id].text, hits=hits, seconds=0.0
                )
            )
            clicked = random.random(SHOWN) < seen * np.where(relevant, CLICK_RELEVANT, CLICK_OTHER)
            for place in np.flatnonzero(relevant if judged else clicked):
                node_id = world.answers[rows[place]]
                kind, source = ("judgement", "truth") if judged else ("use", "click")
                log.write(FeedbackRecord(query_id=name, node_id=node_id, value=1.0, kind=kind, source=source, time=0.0))
        log.flush()


def train(world: World, dataset: Any, split: Split) -> np.ndarray:
    by_text = {world.dataset.queries[q].text: q for q in world.asked}

    def vectors(ids: tuple[str, ...]) -> np.ndarray:
        return np.stack([world.vectors[by_text[dataset.queries[q].text]] for q in ids])

    def relevant(ids: tuple[str, ...]) -> list[np.ndarray]:
        return [np.array(sorted(world.row[a] for a in dataset.relevant(q)), np.int64) for q in ids]

    return fit_query_adapter(
        vectors(split.train),
        world.documents,
        relevant(split.train),
        dev_queries=vectors(split.dev),
        dev_relevant=relevant(split.dev),
    ).matrix
