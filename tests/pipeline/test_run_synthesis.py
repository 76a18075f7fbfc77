"""run --synthesize: synthetic queries as training examples, and runs of memories only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.audit import audit_split
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.pipeline.audit import audit
from llama_index_ace_finetune.pipeline.config_file import run_settings
from llama_index_ace_finetune.pipeline.plan import plan
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.register import stage_keys
from llama_index_ace_finetune.pipeline.synthetic_queries import join_synthetic, split_known, synthesizer_of
from llama_index_ace_finetune.training.config import TrainingConfig
from tests.helpers.scripted_llm import ScriptedLLM

THINGS = ("valve", "filter", "sensor", "pump", "boiler", "switch", "gasket", "motor", "cable", "fan")


def dataset(queries: int = 30, memories: int = 40) -> RetrievalDataset:
    """Memories about parts of a plant; the first ones have a query each."""
    texts = [
        f"The {THINGS[n % 10]} in hall {n} is checked by team {n * 7 % 13} every {n + 2} days, code {n * 7919}."
        for n in range(memories)
    ]
    return RetrievalDataset(
        "plant",
        {f"m{n}": Memory(f"m{n}", text, {"site": f"site {n // 4}"}) for n, text in enumerate(texts)},
        {f"q{n}": Query(f"q{n}", f"who looks at {THINGS[n % 10]} number {n * 104729}") for n in range(queries)},
        {f"q{n}": {f"m{n}": 1.0} for n in range(queries)},
    )


def settings(**changes: object) -> RunSettings:
    return RunSettings(data=dataset(), out=Path("out"), **{"synthesize": 200, **changes})  # type: ignore[arg-type]


def held_out(data: RetrievalDataset, split: Split) -> set[str]:
    return {answer for part in ("dev", "test") for query in split.part(part) for answer in data.relevant(query)}


class TestJoin:
    def test_queries_are_written_for_train_memories_only_and_join_train(self) -> None:
        data, options = dataset(), settings()
        split = split_dataset(data)
        made = synthesizer_of(options, data, split, None).generate().dataset
        assert {memory for grades in made.judgements.values() for memory in grades} == set(data.memories) - held_out(
            data, split
        )
        joined, parts = join_synthetic(options, data, split, None, made)
        assert set(parts.train) == {*split.train, *made.queries}
        assert (parts.dev, parts.test) == (split.dev, split.test)
        assert len(made.queries) > 60
        assert audit_split(joined, parts).passed

    def test_no_held_out_group(self) -> None:
        data, options = dataset(), settings(split=SplitSettings(group_field="site"))
        split = split_dataset(data, settings=options.split)
        sites = {data.memories[memory].metadata["site"] for memory in held_out(data, split)}
        made = synthesizer_of(options, data, split, None).generate().dataset
        asked = {data.memories[memory].metadata["site"] for grades in made.judgements.values() for memory in grades}
        assert asked
        assert asked.isdisjoint(sites)
        assert audit_split(*join_synthetic(options, data, split, None, made)).passed

    def test_language_model_sees_nothing_of_dev_and_test_and_cannot_repeat_it(self, tmp_path: Path) -> None:
        data = dataset()
        split = split_dataset(data)
        secret = data.queries[split.test[0]].text
        llm = ScriptedLLM(lambda prompt: json.dumps([secret, f"what is said of {len(llm.prompts)} things here"]))
        made = synthesizer_of(settings(llm=llm), data, split, None)
        plan = made.plan()
        assert plan.prompts
        memories = {data.memories[memory].text for memory in held_out(data, split)}
        for prompt in plan.prompts.values():
            assert not any(data.queries[query].text in prompt for query in (*split.dev, *split.test))
            asked = prompt.split("<memory>")[1].split("</memory>")[0].strip()
            assert asked not in memories
        kept = made.generate(tmp_path / "answers.jsonl", plan=plan).dataset.queries.values()
        assert secret not in {query.text for query in kept}

    def test_nothing_to_write_for(self) -> None:
        data = dataset(queries=3, memories=3)
        split = split_dataset(data, settings=SplitSettings(train=0, dev=0.4, test=0.6))
        with pytest.raises(DatasetError, match="all memories are those of held-out queries"):
            synthesizer_of(settings(), data, split, None)

    def test_without_queries_the_synthetic_ones_are_split_by_memory(self) -> None:
        data, options = dataset(queries=0), settings()
        assert split_known(options, data, None) is None
        made = synthesizer_of(options, data, None, None).generate().dataset
        joined, split = join_synthetic(options, data, None, None, made)
        assert all((split.train, split.dev, split.test))
        assert audit_split(joined, split).passed

    def test_judged_queries_are_held_out(self) -> None:
        data = dataset()
        judged = {
            query_id: dataclasses.replace(query, metadata={"earlier_split": "dev" if number % 3 == 0 else "test"})
            for number, (query_id, query) in enumerate(data.queries.items())
        }
        split = split_known(settings(), dataclasses.replace(data, queries=judged), None)
        assert split is not None
        assert (len(split.train), len(split.dev), len(split.test)) == (0, 10, 20)


class TestSettings:
    def test_number_of_queries_and_model_are_in_the_keys(self) -> None:
        def mine(**changes: object) -> str:
            return stage_keys(settings(**changes), dataset())["mine"]

        assert mine() == mine(llm_key_env="OTHER")
        assert len({mine(synthesize=0), mine(), mine(synthesize=201), mine(llm_url="http://a", llm_model="b")}) == 4

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"synthesize": -1}, "synthesize is -1"),
            ({"synthesize": 0, "llm_url": "http://127.0.0.1:9", "llm_model": "small"}, "set synthesize"),
            ({"data": None}, "A run needs data with queries"),
            ({"llm_key_env": "sk-0123"}, "^The environment variable of --llm-key-env is not set"),
        ],
    )
    def test_contradictions(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(AceFinetuneError, match=message):
            dataclasses.replace(settings(), **changes)  # type: ignore[arg-type]

    def test_memories_are_enough(self, tmp_path: Path) -> None:
        found = run_settings(None, {"memories": "notes.json", "synthesize": 50, "out": Path("r")})
        assert (found.data, found.memories, found.data_name) == (None, "notes.json", "notes.json")
        with pytest.raises(AceFinetuneError, match="does not say data"):
            run_settings(None, {"memories": "notes.json", "out": Path("r")})

    def test_command_without_data(self, tmp_path: Path) -> None:
        found = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "run")])
        assert found.exit_code == 2
        assert "does not say data; give it with --data" in " ".join(found.output.split())


TRAINING = TrainingConfig(mode="linear", device="cpu")


@pytest.mark.slow
def test_run_with_queries_of_users(
    write_suite: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = write_suite(tmp_path / "suite.json", 24), tmp_path / "run"
    options = RunSettings(data=suite, out=out, synthesize=60, training=TRAINING)
    assert sum("synthetic" in line for line in plan(options).data) == 1
    result = ace.run(options)
    made = read_dataset(out / "synthetic.jsonl")
    examples = json.loads((out / "training_data.json").read_text())["examples"]
    marked = [one for one in examples if one["metadata"].get("synthetic") == "offline"]
    assert {one["query_id"] for one in marked} == set(made.queries)
    assert {one["split"] for one in marked} == {"train"}
    choice = json.loads((out / "model" / "ace_finetune.json").read_text())["metrics"]["synthetic"]
    assert choice["count"] == len(marked)
    assert not result.verdict.startswith("MEASURED ON SYNTHETIC")
    assert audit(out).passed
    content = (out / "synthetic.jsonl").read_bytes()
    again = ace.run(dataclasses.replace(options, resume=True, query_ms=1000.0))
    assert "mine" not in again.stages
    assert (out / "synthetic.jsonl").read_bytes() == content
    assert run_settings(out / "config.yaml", {}).synthesize == 60


@pytest.mark.slow
def test_run_of_memories_only(demo_suite: Path, tmp_path: Path) -> None:
    memories = tmp_path / "memories.jsonl"
    texts = [memory.text for memory in read_dataset(demo_suite).memories.values()][:120]
    memories.write_text("".join(json.dumps({"id": f"m{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    out = tmp_path / "run"
    found = CliRunner().invoke(
        app, ["run", "--memories", str(memories), "--synthesize", "240", "--mode", "linear", "--out", str(out)]
    )
    assert found.exit_code == 0, found.output
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"]["sentence"].startswith("MEASURED ON SYNTHETIC QUERIES ONLY: ")
    split = json.loads((out / "split.json").read_text())
    assert all(query_id.startswith("synthetic-") for part in split["queries"].values() for query_id in part)
    assert audit(out).passed
    assert json.loads((out / "manifest.json").read_text())["data"] is None
