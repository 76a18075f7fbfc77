"""Mining hard negatives against sentence_transformers.util.mine_hard_negatives: time, memory, hidden positives,
and the accuracy of training with them.

    python benchmarks/mining.py --data FOLDER [--check] [--out FILE]

FOLDER holds retrieval sets in BEIR layout (and `ace`, a test suite). `--check` leaves out medquad and the trainings.
Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
from existing import existing
from findings import Findings
from machine import machine
from sets import load, test_set
from timing import quiet, seconds_of
from tuning import BASE, tuner_of

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.evaluation.stats.paired import paired_difference
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.utils.memory import keep_freed_memory

NEGATIVES, WINDOW, MARGIN = 5, 50, 0.05
COLD, WARM, MEMORY, HIDDEN = 1 / 3, 1 / 20, 1 / 2, 1 / 2
TIMED = ("msvc_errors", "medquad")
WITH_SEVERAL = ("locomo", "ace", "nl2bash")
TRAINED = ("ace", "locomo", "msvc_errors")
SEEDS = (0, 1, 2)
SEARCHED = (5_000, 300_000, 384)


def peer_mine(model: Any, pairs: list[tuple[str, str]], corpus: list[str]) -> list[dict[str, Any]]:
    """Rows with `anchor` and `negative`, one per negative: the only format that leaves out no query."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    data = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [p for _, p in pairs]})
    with quiet():
        mined = mine_hard_negatives(
            data, model, corpus=corpus, range_max=WINDOW, num_negatives=NEGATIVES, relative_margin=MARGIN,
            sampling_strategy="top", output_format="triplet", verbose=False,
        )  # fmt: skip
    return mined.to_list()


def pairs_of(dataset: RetrievalDataset, queries: list[str]) -> list[tuple[str, str]]:
    return [(dataset.queries[q].text, dataset.memories[a].text) for q in queries for a in sorted(dataset.relevant(q))]


def our_miner(cache: Path | None = None) -> HardNegativeMiner:
    encoder = Encoder.load(BASE, settings=EncoderSettings(device="cpu", precision="auto"))
    return HardNegativeMiner(encoder=encoder, cache=cache)


def time_both(folder: Path, names: tuple[str, ...], findings: Findings) -> None:
    rows = []
    for name in names:
        dataset = load(folder, name)
        queries = list(split_dataset(dataset).train)
        corpus = [memory.text for memory in dataset.answers.values()]
        peer = Encoder.load(BASE, settings=EncoderSettings(device="cpu")).model
        theirs, _ = seconds_of(lambda d=dataset, q=queries, p=peer, c=corpus: peer_mine(p, pairs_of(d, q), c))
        with tempfile.TemporaryDirectory() as cache:
            timed = []
            for _ in ("cold", "warm"):
                miner = our_miner(Path(cache))
                taken, found = seconds_of(lambda m=miner, d=dataset, q=queries: m.mine(d, q, count=NEGATIVES))
                timed.append(taken)
        cold, warm = timed
        kept = sum(map(len, found.values()))
        rows.append(
            f"| {name} | {len(queries):,} x {len(corpus):,} | {theirs:.1f} | {cold:.1f} | {warm:.2f} "
            f"| {cold / theirs:.3f} | {warm / theirs:.3f} | {kept:,} |"
        )
        findings.ask(f"{name} cold {cold / theirs:.3f} (asked {COLD:.3f})", cold <= COLD * theirs)
        findings.ask(f"{name} warm {warm / theirs:.3f} (asked {WARM:.3f})", warm <= WARM * theirs)
    header = "| set | queries x memories | peer, s | cold, s | warm, s | cold / peer | warm / peer | negatives |"
    findings.section("Time", header, rows)


def search_only(who: str) -> None:
    """Search synthetic vectors and print the peak memory in bytes, before and after; runs in a separate process."""
    queries, corpus, dimension = SEARCHED
    rng = np.random.default_rng(0)

    def unit(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    query_vectors, corpus_vectors = unit(queries), unit(corpus)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if who == "ours":
        from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
        from llama_index_ace_finetune.mining.settings import MiningSettings
        from llama_index_ace_finetune.mining.sources import DenseSource

        mined = mine_negatives(
            query_vectors=query_vectors, corpus_vectors=corpus_vectors, count=NEGATIVES,
            relevant=[np.array([row]) for row in range(queries)], settings=MiningSettings(),
            sources=[DenseSource(query_vectors, corpus_vectors)],
        )  # fmt: skip
        kept = mined.kept
    else:
        texts = [str(row) for row in range(corpus)]
        kept = len(peer_mine(_MadeUp(query_vectors, corpus_vectors), [(t, t) for t in texts[:queries]], texts))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"before": before, "after": after, "kept": kept}))


class _MadeUp:
    """The interface that `mine_hard_negatives` needs of a model, with precomputed vectors."""

    device = "cpu"

    def __init__(self, queries: np.ndarray, corpus: np.ndarray) -> None:
        from sentence_transformers.util import cos_sim, pairwise_cos_sim

        self.similarity, self.similarity_pairwise = cos_sim, pairwise_cos_sim
        self._queries, self._corpus = queries, corpus

    def encode_query(self, texts: list[str], **_: object) -> np.ndarray:
        return self._queries[: len(texts)]

    def encode_document(self, texts: list[str], **_: object) -> np.ndarray:
        return self._corpus[: len(texts)]


def compare_memory(findings: Findings) -> None:
    peaks = {}
    for who in ("peer", "ours"):
        command = [sys.executable, __file__, "--search-only", who]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[who] = json.loads(done.stdout.strip().splitlines()[-1])
    rows = [
        f"| {who} | {p['after'] / 2**30:.2f} | {(p['after'] - p['before']) / 2**30:.2f} |" for who, p in peaks.items()
    ]
    share = peaks["ours"]["after"] / peaks["peer"]["after"]
    findings.section(
        "Peak memory, {:,} queries x {:,} vectors of {}".format(*SEARCHED),
        "| | whole process, GiB | beyond vectors and imports, GiB |",
        rows,
    )
    findings.ask(f"peak memory {share:.3f} of the peer's (asked {MEMORY:.3f})", share <= MEMORY)


def hide(dataset: RetrievalDataset, *, seed: int = 0) -> tuple[RetrievalDataset, list[str], dict[str, set[str]]]:
    """Hide a third of the positives (one at least) of every query text that has several."""
    rng = np.random.default_rng(seed)
    judgements = {query: dict(judged) for query, judged in dataset.judgements.items()}
    same: dict[str, list[str]] = {}
    for query in dataset.queries:
        same.setdefault(normalise(dataset.queries[query].text), []).append(query)
    chosen, hidden = [], {}
    for queries in same.values():
        right = sorted(dataset.relevant(queries[0]))
        if len(right) < 2:
            continue
        taken = set(rng.choice(right, size=max(1, len(right) // 3), replace=False).tolist())
        for query in queries:
            judgements[query] = {m: g for m, g in judgements[query].items() if dataset.answer_ids[m] not in taken}
        left = next((query for query in queries if any(grade > 0 for grade in judgements[query].values())), None)
        if left is not None:
            chosen.append(left)
            hidden[left] = taken
    return dataclasses.replace(dataset, judgements=judgements), chosen, hidden


def count_hidden(folder: Path, names: tuple[str, ...], findings: Findings) -> None:
    rows = []
    for name in names:
        dataset, queries, hidden = hide(load(folder, name))
        miner = our_miner()
        corpus = [memory.text for memory in dataset.answers.values()]
        id_of = {memory.text: identifier for identifier, memory in dataset.answers.items()}
        peer = Encoder.load(BASE, settings=EncoderSettings(device="cpu")).model
        theirs: dict[str, list[str]] = {}
        for row in peer_mine(peer, pairs_of(dataset, queries), corpus):
            theirs.setdefault(row["anchor"], []).append(id_of[row["negative"]])
        found = miner.mine(dataset, queries, count=NEGATIVES)
        ours_ids, their_ids = {}, {}
        for query in queries:
            # Equal yield: for each query, as many negatives as the miner with fewer of them has.
            mine = [negative.memory_id for negative in found[query]]
            other = list(dict.fromkeys(theirs.get(dataset.queries[query].text, [])))
            equal = min(len(mine), len(other))
            ours_ids[query], their_ids[query] = mine[:equal], other[:equal]
        ours = sum(len(hidden[query] & set(ids)) for query, ids in ours_ids.items())
        peers = sum(len(hidden[query] & set(ids)) for query, ids in their_ids.items())
        total = sum(map(len, ours_ids.values()))
        share = ours / peers if peers else float(ours > 0)
        yields = [sum(map(len, rows_of.values())) for rows_of in (theirs, found)]
        rows.append(
            f"| {name} | {len(queries):,} | {sum(map(len, hidden.values())):,} | {total:,} "
            f"| {yields[0]:,} / {yields[1]:,} | {peers} | {ours} | {share:.2f} |"
        )
        findings.ask(f"{name} hidden answers {share:.2f} of the peer's (asked {HIDDEN:.2f})", ours <= HIDDEN * peers)
    findings.section(
        "Hidden right answers that come back as negatives (cosqa has no query with several right answers)",
        "| set | queries | hidden | negatives compared | all, peer / ours | back, peer | back, ours | ours / peer |",
        rows,
    )


def train_with_and_without(folder: Path, names: tuple[str, ...], findings: Findings) -> None:
    rows, better, not_worse = [], 0, 0
    for name in names:
        dataset = load(folder, name)
        split = split_dataset(dataset)
        data = generate_training_data(dataset, split, our_miner(), num_negatives=NEGATIVES)
        scores: dict[int, list[np.ndarray]] = {0: [], 1: []}
        test = test_set(dataset, list(split.test))
        for seed in SEEDS:
            for negatives in (0, 1):
                scores[negatives].append(_trained(data, test, negatives=negatives, seed=seed))
        with_, without = (np.mean(scores[negatives], axis=0) for negatives in (1, 0))
        difference = paired_difference(with_, without, groups=test.groups)
        means = {n: [values.mean() for values in scores[n]] for n in (0, 1)}
        each = [f"{np.mean(means[n]):.3f} ({np.std(means[n], ddof=1):.3f})" for n in (0, 1)]
        better += difference.mean > 0
        not_worse += difference.high >= 0
        rows.append(
            f"| {name} | {len(test.examples.queries)} | {each[0]} | {each[1]} "
            f"| {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] |"
        )
    findings.section(
        f"Test MRR@10 after training, mean (s.d.) of {len(SEEDS)} seeds, two epochs at 5e-5",
        "| set | queries | in-batch negatives | with one mined negative a query | difference, 95 % interval |",
        rows,
    )
    findings.ask(f"no worse on {not_worse} of {len(names)} (asked all)", not_worse == len(names))
    findings.ask(f"better on {better} of {len(names)} (asked 2)", better >= 2)


def _trained(data: Any, test: DevSet, *, negatives: int, seed: int) -> np.ndarray:
    options = {"mode": "full", "epochs": 2, "learning_rate": 5e-5, "budget_minutes": None}
    with tempfile.TemporaryDirectory() as folder:
        tuner = tuner_of(data, Path(folder) / "model", hard_negatives=negatives, seed=seed, **options)
        tuner.train()
        assert tuner.encoder is not None
        return test.score(tuner.encoder).mrr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the retrieval sets")
    parser.add_argument("--check", action="store_true", help="without medquad and without the trainings")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument("--search-only", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search_only:
        search_only(options.search_only)
        return 0
    folder = existing(options.data)
    keep_freed_memory()
    findings = Findings()
    time_both(folder, TIMED[:1] if options.check else TIMED, findings)
    compare_memory(findings)
    count_hidden(folder, WITH_SEVERAL[:2] if options.check else WITH_SEVERAL, findings)
    if not options.check:
        train_with_and_without(folder, TRAINED, findings)
    return findings.close("Mining hard negatives", machine("torch", "sentence-transformers", "numpy"), options.out)


if __name__ == "__main__":
    sys.exit(main())
