"""No labels: what synthetic queries teach, and a language model that is killed and resumed.

    python benchmarks/no_labels.py --data FOLDER [--check] [--only PARTS] [--sets NAMES] [--budget MINUTES]
                                   [--llm-folder FOLDER] [--llm-answers FOLDER] [--queries N]
                                   [--out FILE] [--kept FILE]

For each set, the base model and three trainings are compared on the real test queries of the split: on synthetic
queries only (made from the memories' own words, which need no language model), with dev queries that are synthetic
too, and with the real dev queries, as if a person had judged some; and on the real training queries. With real dev
queries, none is written for the memories of dev and test, which are then new to the model; with synthetic ones, some
are, so the two columns do not differ in the dev queries only.

`--llm-folder` adds a training on the queries of a small language model: a model folder of transformers; nothing is
downloaded. Its answers are stored in `--llm-answers`, from which an interrupted generation resumes. A mock language
model writes queries for 2,000 memories, 64 at a time, is killed twice, and resumed. `--check` takes one set and half a
minute per training. Exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import library_first  # noqa: F401
from existing import existing
from findings import Findings
from kept import Kept
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from local_llm import LocalLLM
from machine import machine
from sets import load, test_set
from timing import quiet, seconds_of
from tuning import BASE

from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.synthesize import synthesize
from llama_index_ace_finetune.pipeline.synthetic_queries import join_synthetic, synthesizer_of
from llama_index_ace_finetune.synthesis.answer_log import AnswerLog, prompt_key
from llama_index_ace_finetune.synthesis.prompt import PromptTemplate
from llama_index_ace_finetune.synthesis.settings import CallSettings, SynthesisSettings
from llama_index_ace_finetune.synthesis.synthesize import Synthesizer
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.utils.memory import keep_freed_memory

SETS = ("ace", "msvc_errors", "nl2bash")
PARTS = ("calls", "gains")
QUERIES = 1000
MEMORIES, IN_FLIGHT, LATENCY = 2000, 64, (0.1, 0.5)


@dataclass(frozen=True)
class Writer:
    """The folder of a small language model, how many queries it writes per set, and the folder of its answers."""

    folder: Path
    queries: int
    answers: Path


def gains(
    folder: Path, names: tuple[str, ...], minutes: float, writer: Writer | None, kept: Kept, findings: Findings
) -> None:
    rows, below = [], []
    for name in names:
        found = kept.measure(f"gains {name} {minutes:g}", lambda name=name: of_set(folder, name, minutes))
        cells = " | ".join(f"{found[kind][0]:.3f} / {found[kind][1]:.3f}" for kind in ("base", *KINDS))
        ships = ", ".join(found["ships"])
        rows.append(
            f"| {name} | {found['test']:,} x {found['memories']:,} | {found['written']:,} | {cells} | {ships} |"
        )
        if found["judged"][1] < found["base"][1]:
            below.append(name)
    findings.section(
        f"Test R@1 / MRR@10 on real queries, {minutes:g} minutes per training",
        "| set | queries x memories | synthetic | base | synthetic, synthetic dev | synthetic, real dev "
        "| real training queries | shipped |",
        rows,
    )
    findings.ask(f"sets below their base with a real dev part {below} (asked none)", not below)
    if writer:
        gains_of_llm(folder, names, minutes, writer, kept, findings)


def gains_of_llm(
    folder: Path, names: tuple[str, ...], minutes: float, writer: Writer, kept: Kept, findings: Findings
) -> None:
    rows, model = [], writer.folder.name
    for name in names:
        found = kept.measure(
            f"gains {name} {minutes:g} {model} {writer.queries}",
            lambda name=name: of_llm(folder, name, minutes, writer),
        )
        others = kept.figures[f"gains {name} {minutes:g}"]
        pairs = (others["base"], others["synthetic"], found["scores"], others["real"])
        cells = " | ".join(f"{first:.3f} / {mrr:.3f}" for first, mrr in pairs)
        left_out = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items())
        rows.append(
            f"| {name} | {found['kept']:,} of {found['generated']:,} | {left_out} | {found['speed']} "
            f"| {cells} | {found['ships']} |"
        )
        ours, real = (mrr - others["base"][1] for _, mrr in (found["scores"], others["real"]))
        findings.ask(f"{name}: gain {ours:+.3f} of {real:+.3f} by real labels (asked a third)", ours >= real / 3)
    findings.section(
        f"Queries of {model}: test R@1 / MRR@10 on real queries, synthetic dev, {minutes:g} minutes per training",
        "| set | queries kept | left out | tokens per second | seconds per query | base | memories' own words "
        f"| {model} | real training queries | shipped |",
        rows,
    )


def of_llm(folder: Path, name: str, minutes: float, writer: Writer) -> dict[str, Any]:
    """Train on the queries of a language model with synthetic dev queries; evaluate on the real test queries."""
    dataset = load(folder, name)
    test = test_set(dataset, list(split_dataset(dataset).test))
    alone = replace(dataset, queries={}, judgements={}, own_documents={})
    writer.answers.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        base, cache = Encoder.load(BASE, settings=EncoderSettings(device="cpu")), Path(scratch) / "vectors"
        llm, settings = LocalLLM(writer.folder), RunSettings(data=alone, out=Path("unused"), synthesize=writer.queries)
        made = Synthesizer(
            alone,
            llm=llm,
            encoder=base,
            settings=SynthesisSettings(num_queries=writer.queries),
            template=PromptTemplate.completion(),
            cache=cache,
        ).generate(writer.answers / f"{name}.jsonl", calls=CallSettings(concurrency=llm.batch, timeout=3600.0))
        scores, shipped = trained(
            *join_synthetic(settings, alone, None, None, made.dataset), Path(scratch) / "llm", cache, minutes, test
        )
    called = made.calls.called if made.calls else 0
    speed = f"{llm.tokens / llm.seconds:.0f} | {llm.seconds / called:.2f}" if called else "not called | again"
    return {
        "scores": scores,
        "ships": shipped,
        "generated": made.generated,
        "kept": len(made.dataset.queries),
        "left_out": {**made.left_out, **{f"answers {reason}": count for reason, count in made.unusable.items()}},
        "samples_left_out": made.samples,
        "speed": speed,
    }


KINDS = ("synthetic", "judged", "real")


def of_set(folder: Path, name: str, minutes: float) -> dict[str, Any]:
    """Train on synthetic queries with each kind of dev queries, and on real ones; evaluate on the real test queries."""
    dataset = load(folder, name)
    split = split_dataset(dataset)
    test = test_set(dataset, list(split.test))
    with tempfile.TemporaryDirectory() as scratch:
        base = Encoder.load(BASE, settings=EncoderSettings(device="cpu"))
        cache = Path(scratch) / "vectors"
        alone = replace(dataset, queries={}, judgements={}, own_documents={})
        asked = [*split.dev, *split.test]
        judged = replace(
            alone,
            queries={query_id: dataset.queries[query_id] for query_id in asked},
            judgements={query_id: dataset.judgements[query_id] for query_id in asked},
        )
        held_out = Split.of(judged, {"dev": split.dev, "test": split.test}, split.settings)
        data = {
            "synthetic": with_synthetic(alone, None, base, cache),
            "judged": with_synthetic(judged, held_out, base, cache),
            "real": (dataset, split),
        }
        scores, ships = {"base": pair(test.score(base))}, []
        for kind in KINDS:
            scores[kind], shipped = trained(*data[kind], Path(scratch) / kind, cache, minutes, test)
            ships.append(f"{kind}: {shipped}")
    return {
        **scores,
        "ships": ships,
        "test": len(split.test),
        "memories": len(dataset.answers),
        "written": len(data["synthetic"][0].queries),
    }


def with_synthetic(
    dataset: RetrievalDataset, split: Split | None, base: Encoder, cache: Path
) -> tuple[RetrievalDataset, Split]:
    settings = RunSettings(data=dataset, out=Path("unused"), synthesize=QUERIES)
    made = synthesizer_of(settings, dataset, split, base, cache=cache).generate().dataset
    return join_synthetic(settings, dataset, split, None, made)


def trained(
    dataset: RetrievalDataset, split: Split, folder: Path, cache: Path, minutes: float, test: DevSet
) -> tuple[tuple[float, float], str]:
    miner = HardNegativeMiner(model=BASE, cache=cache, device="cpu")
    config = TrainingConfig(output_dir=str(folder / "model"), budget_minutes=minutes, device="cpu")
    tuner = EmbeddingFineTuner(config, cache=cache)
    with quiet():
        tuner.load_training_data(generate_training_data(dataset, split, miner))
        tuner.initialize_model()
        tuner.train()
    assert tuner.encoder is not None
    return pair(test.score(tuner.encoder)), tuner.shipped.name if tuner.shipped else "base"


def pair(scores: DevScores) -> tuple[float, float]:
    """R@1 and MRR@10."""
    return float((scores.mrr == 1).mean()), float(scores.mrr.mean())


class MockLLM(CustomLLM):
    """Answers after a random latency with words of the memory; writes a line per call and per answer to `calls`."""

    calls: str

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="mock")

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        key = prompt_key("mock", prompt)
        self.note("call", key)
        await asyncio.sleep(random.uniform(*LATENCY))
        answer = self.complete(prompt)
        self.note("answer", key)
        return answer

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        words = prompt.split("<memory>")[1].split("</memory>")[0].split()
        return CompletionResponse(text=json.dumps([" ".join(words[2:8])]))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError

    def note(self, what: str, key: str) -> None:
        with Path(self.calls).open("a", encoding="ascii") as file:
            file.write(f"{what} {key}\n")


def made_up() -> RetrievalDataset:
    words = [f"{a}{b}" for a in ("disk", "key", "alert", "deploy", "cache", "token") for b in ("s", "ed", "ing", "er")]
    rng = random.Random(0)
    texts = (f"note {n} " + " ".join(rng.choices(words, k=60)) + f" code {n * 7919}" for n in range(MEMORIES))
    memories = {f"m{n}": Memory(f"m{n}", text) for n, text in enumerate(texts)}
    return RetrievalDataset("made up", memories, {}, {})


def work(folder: Path) -> None:
    """Write the queries; in a process of its own, which is killed."""
    seconds, result = seconds_of(
        lambda: synthesize(
            made_up(),
            folder / "synthetic.jsonl",
            llm=MockLLM(calls=str(folder / "calls.txt")),
            base_model=None,
            settings=SynthesisSettings(num_queries=MEMORIES),
            calls=CallSettings(concurrency=IN_FLIGHT),
        )
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"seconds": seconds, "peak": peak, **result.report}))


def killed_and_resumed(findings: Findings) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls, log = folder / "calls.txt", folder / "synthetic.answers.jsonl"
        command = [sys.executable, __file__, "--work", name]
        answered: list[set[str]] = []
        called: list[int] = [0]
        for part in (1 / 3, 2 / 3):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while count(calls, "answer") < part * MEMORIES and process.poll() is None:
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with AnswerLog.open(log) as answers:
                answered.append(set(answers.answers))
            called.append(len(calls.read_text().split("\n")) - 1)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout.strip().splitlines()[-1])
        lines = [line.split() for line in calls.read_text().splitlines()]
        with AnswerLog.open(log) as answers:
            final = set(answers.answers)
    repeated = sum(
        what == "call" and key in had
        for had, start in zip(answered, called[1:], strict=True)
        for what, key in lines[start:]
    )
    arrived = [{key for what, key in lines[:end] if what == "answer"} for end in called[1:]]
    in_the_kill = sum(len(one - had) for one, had in zip(arrived, answered, strict=True))
    asked = sum(what == "call" for what, _ in lines)
    rate = report["calls"]["called"] / report["seconds"]
    findings.section(
        f"A mock language model of {LATENCY[0]:g} to {LATENCY[1]:g} s per call, {IN_FLIGHT} in flight, killed twice",
        "| memories | calls | answers stored at the kills | calls repeated that had an answer stored "
        "| answers that arrived while being killed, asked again | unanswered at the end | calls per second, last part "
        "| peak, MiB |",
        [
            f"| {MEMORIES:,} | {asked:,} | {len(answered[0]):,}, {len(answered[1]):,} | {repeated} | {in_the_kill} "
            f"| {MEMORIES - len(final)} | {rate:.0f} | {report['peak']:.0f} |"
        ],
    )
    findings.ask(f"calls repeated that had an answer {repeated} (asked 0)", repeated == 0)
    findings.ask(f"prompts without an answer {MEMORIES - len(final)} (asked 0)", len(final) == MEMORIES)


def count(path: Path, what: str) -> int:
    return path.read_text().count(what) if path.is_file() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the retrieval sets")
    parser.add_argument("--check", action="store_true", help="one set, and half a minute per training")
    parser.add_argument("--only", default=",".join(PARTS), help="parts of the table, comma-separated")
    parser.add_argument("--sets", default=",".join(SETS), help="names, comma-separated")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes per training")
    parser.add_argument("--llm-folder", type=Path, help="model folder of transformers; needs --llm-answers")
    parser.add_argument("--llm-answers", type=Path, help="folder of its answers")
    parser.add_argument("--queries", type=int, default=QUERIES, help="queries that it writes for each set")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    parser.add_argument(
        "--kept", type=Path, help="file of the figures measured so far, to resume from after an interruption"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return 0
    if options.llm_folder and not options.llm_answers:
        parser.error("--llm-folder needs --llm-answers")
    writer = Writer(options.llm_folder, options.queries, options.llm_answers) if options.llm_folder else None
    keep_freed_memory()
    findings = Findings()
    parts = options.only.split(",")
    if "calls" in parts:
        killed_and_resumed(findings)
    if "gains" in parts:
        names = tuple(options.sets.split(","))[: 1 if options.check else None]
        minutes = 0.5 if options.check else options.budget
        gains(existing(options.data), names, minutes, writer, Kept(options.kept), findings)
    return findings.close("No labels", machine("torch", "sentence-transformers", "llama-index-core"), options.out)


if __name__ == "__main__":
    sys.exit(main())
