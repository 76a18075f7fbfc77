"""Encoding and mining in shards, on two Ray workers against one process, with workers killed; training by two ranks.

    python benchmarks/scale_out.py [--check] [--only PARTS] [--size N] [--out FILE]

Memories are generated, of 30 words. The size is measured with a static model, whose time is that of reading, tokenizing
and writing, each of which is measured too; the time of MiniLM is measured with 2,000 memories. On Ray the driver plans
the shards, and the workers read and write their files. A process by itself tokenizes on all cores, a worker on its own.
`--check` takes 200,000 memories.
Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from findings import Findings
from machine import machine
from timing import quiet, seconds_of

from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.types import Query, RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.scale.encode_memories import encode_memories
from llama_index_ace_finetune.scale.encode_shard import encode_shard
from llama_index_ace_finetune.scale.engine import EngineSettings
from llama_index_ace_finetune.scale.memory_files import divide_rows, parquet_files, read_memories
from llama_index_ace_finetune.scale.mine_corpus import mine_corpus
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.vector_shard import shard_header, write_shard

SIZE, CHECKED, COMPARED, SHARD = 1_000_000, 200_000, 20_000, 5_000
WORKERS, KILLS, WORDS, DIMENSION, QUERIES, MINILM = 2, 5, 30, 64, 500, 2_000
MEASURED_SHARDS = 10
ALL_CORES, ONE_CORE = "one process, tokenizing on all cores", "one process on one core"
FASTER = 1.3
GRADIENTS = 1e-6
GRADIENT_CASES = ("plain", "gradient caching")
PARTS = ("shards", "training")
CPU = EncoderSettings(device="cpu")
LOCAL, RAY = EngineSettings(), EngineSettings(engine="ray", workers=WORKERS)


def generate(folder: Path, size: int) -> Path:
    """Write `size` memories in files of at most 100,000 rows."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    vocabulary = np.array(sorted({f"{a}{b}" for a in _SYLLABLES for b in _SYLLABLES}))
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    weights /= weights.sum()
    for first in range(0, size, 100_000):
        count = min(100_000, size - first)
        words = rng.choice(vocabulary, (count, WORDS), p=weights)
        columns = {"id": [f"m{row:09}" for row in range(first, first + count)], "text": [" ".join(w) for w in words]}
        pq.write_table(pa.table(columns), folder / f"{first:09}.parquet", compression="zstd")
    return folder


_SYLLABLES = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]


def static_model(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(resolve_checkpoint(DEFAULT_BASE_MODEL) / "tokenizer.json"))
    weights = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), DIMENSION), dtype=np.float32)
    modules = [StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def workers() -> list[psutil.Process]:
    """The processes of Ray workers, which this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::Worker"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


class Watch:
    """Called after each shard: records time and memory of workers, and kills random ones."""

    def __init__(self, shards: int, kills: int) -> None:
        self.done, self.killed, self.peak = 0, 0, 0
        self.first = 0.0
        self._start = time.perf_counter()
        self._seconds: dict[int, float] = {}
        self._at = set(random.Random(0).sample(range(1, max(shards - WORKERS, kills + 1)), kills))

    @property
    def worker_seconds(self) -> float:
        """CPU seconds of the workers, up to the last shard of each."""
        return sum(self._seconds.values())

    def __call__(self, rows: int) -> None:
        if not rows:
            return
        self.done += 1
        self.first = self.first or time.perf_counter() - self._start
        alive = workers()
        for process in alive:
            try:
                self.peak = max(self.peak, process.memory_info().rss)
                self._seconds[process.pid] = sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        if self.done in self._at and alive:
            os.kill(random.choice(alive).pid, signal.SIGKILL)
            self.killed += 1


def encode(memories: Path, model: Path, out: Path, engine: EngineSettings, progress: Callable[[int], None]) -> Any:
    with quiet():
        return seconds_of(
            lambda: encode_memories(
                memories, model, out, settings=CPU, engine=engine, shard_rows=SHARD, progress=progress
            )
        )


def encode_on_one_core(memories: Path, model: Path, out: Path) -> float:
    """Return the seconds of a process that has one core for tokenizing too, as a worker has; its start is included."""
    command = [sys.executable, "-m", "llama_index_ace_finetune", "encode", "--memories", str(memories), "--json"]
    options = ["--model", str(model), "--out", str(out), "--shard-rows", str(SHARD), "--device", "cpu"]
    options += ["--precision", CPU.precision]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def same_files(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.glob("*.parquet"))
    return names == sorted(file.name for file in other.glob("*.parquet")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def ids_of(folder: ShardFolder) -> list[str]:
    found: list[str] = []
    for number in range(len(folder)):
        found += pq.read_table(folder.file(number), columns=["id"])["id"].to_pylist()
    return found


def measure_encoding(work: Path, size: int, findings: Findings) -> None:
    model, memories = static_model(work / "static"), generate(work / "memories", size)
    rows, figures = [], dict[str, float]()
    for name, engine, kills in ((ALL_CORES, LOCAL, 0), ("Ray", RAY, 0), ("Ray, workers killed", RAY, KILLS)):
        watch, out, before = Watch(-(-size // SHARD), kills), work / name, time.process_time()
        taken, made = encode(memories, model, out, engine, watch)
        driver = time.process_time() - before
        peak = watch.peak or psutil.Process().memory_info().rss
        figures[name] = made.memories / taken
        rows.append(
            f"| {name} | {made.memories:,} | {taken:.0f} | {watch.first:.1f} | {made.memories / taken:,.0f} "
            f"| {driver:.1f} | {watch.worker_seconds:.1f} | {watch.killed} | {peak / 2**20:,.0f} |"
        )
        ids = ids_of(ShardFolder.open(out))
        same_ids = ids == [f"m{row:09}" for row in range(size)]
        findings.ask(f"{name}: {made.memories:,} of {size:,} rows, same ids", made.memories == size and same_ids)
        if kills:
            findings.ask(f"{watch.killed} workers killed (asked {KILLS})", watch.killed == KILLS)
    taken = encode_on_one_core(memories, model, work / ONE_CORE)
    figures[ONE_CORE] = size / taken
    rows.append(f"| {ONE_CORE} | {size:,} | {taken:.0f} | | {size / taken:,.0f} | | | 0 | |")
    for name in (ONE_CORE, "Ray", "Ray, workers killed"):
        findings.ask(f"{name}: files equal to those of one process", same_files(work / ALL_CORES, work / name))
        shutil.rmtree(work / name)
    folder = ShardFolder.open(work / ALL_CORES)
    shards = [folder.read(number) for number in range(-(-min(COMPARED, size) // SHARD))]
    texts = [memory.text for shard in shards for memory in shard.memories]
    at_once = Encoder.load(model, settings=CPU).encode_documents(texts)
    same = at_once.tobytes() == b"".join(shard.vectors.tobytes() for shard in shards)
    findings.ask(f"vectors of {len(texts):,} equal those of one call", same)
    for name in (ALL_CORES, ONE_CORE):
        gain = figures["Ray"] / figures[name]
        findings.ask(f"{WORKERS} workers {gain:.2f} times {name} (asked {FASTER})", gain >= FASTER)
    header = (
        "| | memories | seconds, start of the workers included | of them to the first shard | memories/s "
        "| CPU seconds of this process | of the workers | killed | peak of a worker, MiB |"
    )
    findings.section(f"Encoding with a static model of {DIMENSION} dimensions", header, rows)


def measure_steps(work: Path, findings: Findings) -> None:
    """Where the time of a shard goes, in one process: what runs on all cores there, a worker does on its own."""
    encoder, rows = Encoder.load(work / "static", settings=CPU), []
    parts = divide_rows(parquet_files(work / "memories"), rows=SHARD)[:MEASURED_SHARDS]
    seconds, cpu = dict[str, float](), dict[str, float]()

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start, start_cpu = time.perf_counter(), time.process_time()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        cpu[name] = cpu.get(name, 0.0) + time.process_time() - start_cpu

    for number, part in enumerate(parts):
        with step("read the rows"):
            held, left_out = read_memories(work / "memories", part, ColumnChoice())
        with step("encode"):
            shard = encode_shard(held, encoder)
        header = shard_header(number=number, fingerprint="", vectors="", source=part.digest, left_out=left_out)
        with step("write the shard"):
            write_shard(work / "measured.parquet", shard, header)
    texts = [memory.text for memory in held]
    with step("tokenize, as a part of encode"):
        for _ in parts:
            encoder.model.tokenizer.encode_batch(texts, add_special_tokens=False)
    for name in seconds:
        rows.append(f"| {name} | {seconds[name]:.2f} | {cpu[name]:.2f} | {cpu[name] / seconds[name]:.1f} |")
    title = f"Steps of {len(parts)} shards of {SHARD:,} memories in one process, on {os.cpu_count()} cores"
    findings.section(title, "| step | seconds | CPU seconds | cores |", rows)


def measure_mining(work: Path, size: int, findings: Findings) -> float:
    """Return seconds per million memories and thousand queries."""
    folder = ShardFolder.open(work / ALL_CORES)
    encoder = ShardEncoder(Encoder.load(folder.model, settings=CPU), [folder])
    memories = folder.read(0).memories[:QUERIES]
    dataset = RetrievalDataset(
        name="generated",
        memories={memory.id: memory for memory in memories},
        queries={m.id: Query(m.id, " ".join(m.text.split()[:6])) for m in memories},
        judgements={memory.id: {memory.id: 1.0} for memory in memories},
    )
    taken, found = seconds_of(lambda: mine_corpus(dataset, encoder, [folder], settings=MiningSettings()))
    rate = taken / (size / 1e6) / (QUERIES / 1e3)
    peak = psutil.Process().memory_info().rss / 2**20
    rows = [f"| {size:,} | {QUERIES:,} | {taken:.0f} | {rate:,.0f} | {len(found.dataset.memories):,} | {peak:,.0f} |"]
    header = "| memories | queries | seconds | per million memories and 1,000 queries | candidates | memory, MiB |"
    findings.section("Mining in one process, by cosine and BM25", header, rows)
    return rate


def costs(work: Path, mining: float, findings: Findings) -> None:
    """Costs of MiniLM's vectors, computed from what was measured."""
    part = generate(work / "part", MINILM)
    model = resolve_checkpoint(DEFAULT_BASE_MODEL)
    taken, _ = encode(part, model, work / "minilm", LOCAL, lambda rows: None)
    folder = ShardFolder.open(work / "minilm")
    size = sum(folder.file(number).stat().st_size for number in range(len(folder))) / MINILM
    rate = MINILM / taken
    rows = [
        f"| {count / 1e6:,.0f} million | {count / rate / 3600:,.0f} | {count * size / 2**30:,.0f} "
        f"| {count / 1e6 * mining / 3600:.1f} | {24 * count / 2**30:.1f} |"
        for count in (1_000_000, 10_000_000, 100_000_000)
    ]
    header = (
        "| memories | core hours to encode | shards, GiB | core hours to mine for 1,000 queries "
        "| memory of the driver for digests, GiB |"
    )
    title = f"Computed for MiniLM, from {rate:.0f} memories/s with {MINILM:,} memories on one thread"
    findings.section(title, header, rows)


def measure_training(findings: Findings) -> None:
    """Gradients of two ranks against one process, and steps per second of both, on all cores."""
    found = {ranks: run_ranks(ranks) for ranks in (1, WORKERS)}
    differences = found[WORKERS]["differences"]
    rows = [f"| {name} | {differences[name]:.1e} | {differences['largest']:.2f} |" for name in GRADIENT_CASES]
    header = "| float64, batch of 8 queries | largest difference of a gradient | largest gradient |"
    findings.section(f"Gradients of {WORKERS} ranks against one process", header, rows)
    for name in GRADIENT_CASES:
        met = differences[name] < GRADIENTS < differences["largest"]
        findings.ask(f"{name}: gradients differ by {differences[name]:.0e} (asked {GRADIENTS:g})", met)
    rows = [
        f"| {precision} | {1 / found[1][precision]:.2f} | {1 / found[WORKERS][precision]:.2f} "
        f"| {found[1][precision] / found[WORKERS][precision]:.2f} |"
        for precision in ("float32", "bfloat16")
    ]
    header = f"| MiniLM, 64 queries and 128 documents | one process, steps/s | {WORKERS} ranks, steps/s | ratio |"
    findings.section(f"Training on {os.cpu_count()} cores", header, rows)


def run_ranks(ranks: int) -> dict[str, Any]:
    threads = max(1, (os.cpu_count() or 1) // ranks)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    script = str(Path(__file__).with_name("divided_training.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, script], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help=f"{CHECKED:,} memories")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts of {', '.join(PARTS)}, with commas between")
    parser.add_argument("--size", type=int, help=f"number of memories (default {SIZE:,})")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    # As Ray sets it for workers with one core each.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    findings, parts = Findings(), options.only.split(",")
    if "training" in parts:
        measure_training(findings)
    if "shards" in parts:
        measure_shards(options.size or (CHECKED if options.check else SIZE), findings)
    return findings.close("Scaling out", machine("ray", "torch", "pyarrow"), options.out)


def measure_shards(size: int, findings: Findings) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would put this folder, with its `datasets.py`, in front of the libraries of its workers.
    sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        measure_encoding(work, size, findings)
        measure_steps(work, findings)
        mining = measure_mining(work, size, findings)
        costs(work, mining, findings)


if __name__ == "__main__":
    sys.exit(main())
