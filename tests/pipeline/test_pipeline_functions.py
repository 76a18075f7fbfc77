"""The functions behind the verbs, called from Python: what they return, and what they print (nothing)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import llama_index_ace_finetune as ace


class Recorder(ace.PipelineEvents):
    """Keeps messages, and the labels of progress with the counts that came."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.texts: dict[str, int] = {}

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    @contextmanager
    def texts_progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self.texts[label] = 0

        def add(count: int) -> None:
            self.texts[label] += count

        yield add


def test_run_of_an_unchanged_run_keeps_all_stages(
    finished_run: Path, suite: Path, one_layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Recorder()
    training = ace.TrainingConfig(base_model=one_layer, epochs=1, batch_size=32)
    again = ace.run(data=suite, out=finished_run, training=training, events=events)
    assert again.stages == ()
    assert again.folder == ace.RunFolder(finished_run)
    assert again.verdict == again.report["verdict"]["sentence"]
    assert again.report == json.loads((finished_run / "report.json").read_text(encoding="utf-8"))
    assert [message.split(" since ")[0] for message in events.messages] == ["nothing has changed"]
    assert capsys.readouterr() == ("", "")


def test_run_needs_data_and_out_or_settings(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(ace.AceFinetuneError, match="needs data and out"):
        ace.run(data=suite)
    settings = ace.RunSettings(data=suite, out=tmp_path / "run")
    with pytest.raises(ace.AceFinetuneError, match="not both"):
        ace.run(settings, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_generate_and_index_report_progress_and_print_nothing(
    finished_run: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Recorder()
    made = ace.generate(suite, tmp_path / "data.json", num_negatives=2, events=events)
    assert made.examples == len(json.loads(made.path.read_text(encoding="utf-8"))["examples"])
    assert made.mining["wanted_per_query"] == 2
    stored = ace.index(ace.read_dataset(suite), finished_run / "model", tmp_path / "index", events=events)
    assert (stored.memories, stored.path) == (24, tmp_path / "index")
    assert events.texts["mining"] > made.examples
    assert events.texts["indexing"] > 0
    assert capsys.readouterr() == ("", "")


def test_audit_report_and_inspect_of_a_run(finished_run: Path, suite: Path, tmp_path: Path) -> None:
    assert ace.audit(finished_run).passed
    assert ace.audit(finished_run / "split.json", ace.read_dataset(suite)).passed
    shown = ace.report(finished_run)
    assert shown.page.read_text(encoding="utf-8").startswith("<!")
    assert shown.verdict in shown.report["verdict"]["sentence"]
    assert ace.inspect(suite).rejection is None
    lines = [json.dumps({"query": f"question {n}", "answer": "the same"}) for n in range(4)]
    (tmp_path / "one.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert ace.inspect(tmp_path / "one.jsonl").rejection


def test_plan_names_every_stage_and_writes_nothing(suite: Path, tmp_path: Path) -> None:
    plan = ace.plan(ace.RunSettings(data=suite, out=tmp_path / "run", training=ace.TrainingConfig(mode="linear")))
    assert [stage.stage for stage in plan.stages] == ["mine", "train: linear", "evaluate", "index"]
    assert plan.seconds == pytest.approx(sum(stage.seconds for stage in plan.stages))
    assert plan.queries["train"] > plan.queries["dev"] > 0
    assert list(tmp_path.iterdir()) == []


def test_plan_fails_where_the_run_would(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = json.loads(suite.read_text(encoding="utf-8"))["test_cases"]
    few = [{**case, "generated_queries": case["generated_queries"][:1]} for case in cases[:10]]
    data = tmp_path / "few.json"
    data.write_text(json.dumps({"test_cases": few}), encoding="utf-8")
    settings = ace.RunSettings(data=data, out=tmp_path / "run")
    for function in (ace.plan, ace.run):
        with pytest.raises(ace.AceFinetuneError, match="There are 6 training examples, and at least 8 are needed"):
            function(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["few.json"]


def test_models_are_looked_for_before_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nothing = tmp_path / "nothing.json"
    training = ace.TrainingConfig(base_model="nobody/unknown-model")
    settings = ace.RunSettings(data=nothing, out=tmp_path / "run", training=training)
    for call in (
        lambda: ace.plan(settings),
        lambda: ace.run(settings),
        lambda: ace.generate(nothing, tmp_path / "t.json", base_model="nobody/unknown-model"),
    ):
        with pytest.raises(ace.AceFinetuneError, match="HF_HUB_OFFLINE is set"):
            call()


def test_every_function_takes_a_dataset(suite: Path, tmp_path: Path, finished_run: Path) -> None:
    dataset = ace.read_dataset(suite)
    settings = ace.RunSettings(data=dataset, out=tmp_path / "run")
    assert ace.plan(settings).memories == len(dataset.memories)
    assert settings.to_dict()["data"] is None
    assert ace.inspect(dataset).rejection is None
    assert ace.audit(finished_run, dataset).passed
    with ace.HardNegativeMiner() as miner:
        generator = ace.TrainingDataGenerator(dataset, tmp_path / "training_data.json", miner, 20)
        assert generator.generate_and_save(negatives_per_example=1) == 20
    assert ace.TrainingData.load(tmp_path / "training_data.json").metadata["source"] == dataset.name
    with pytest.raises(ace.AceFinetuneError, match="this is a dataset already"):
        ace.inspect(dataset, suite)


def test_messages_are_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    events = ace.PipelineEvents()
    with caplog.at_level("INFO", "llama_index_ace_finetune"):
        events.on_message("20 %s of 100 %")
        events.on_warning("kept")
        with events.texts_progress("mining", None) as texts, events.steps_progress("training") as steps:
            texts(3)
            steps(1, 2, {"loss": 0.5})
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "20 %s of 100 %"),
        ("WARNING", "kept"),
    ]
