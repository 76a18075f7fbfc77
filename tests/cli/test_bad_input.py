"""What a user can get wrong: one sentence with the file and the remedy, exit 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune import data_generator, evaluate_finetuned, finetune_embeddings, finetuned_retrieval
from llama_index_ace_finetune.cli import app

runner = CliRunner()


def fails(arguments: list[str], *, naming: str) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    message = result.stderr.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in message
    assert naming in message
    return message


def run_arguments(data: Path, out: Path) -> list[str]:
    return ["run", "--data", str(data), "--out", str(out)]


def test_missing_file(tmp_path: Path) -> None:
    fails(run_arguments(tmp_path / "no.json", tmp_path / "out"), naming="no.json")
    assert list(tmp_path.iterdir()) == []


def test_unknown_precision_is_refused(demo_suite: Path, tmp_path: Path) -> None:
    for arguments in (
        run_arguments(demo_suite, tmp_path / "out"),
        ["generate", "--data", str(demo_suite), "--output", str(tmp_path / "out.json")],
    ):
        refused = runner.invoke(app, [*arguments, "--precision", "half"])
        assert refused.exit_code == 2
        assert "'half' is not one of" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_empty_directory_as_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fails(run_arguments(tmp_path / "data", tmp_path / "out"), naming="data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_directory_where_training_data_is_meant(tmp_path: Path) -> None:
    message = fails(
        ["train", "--training-data", str(tmp_path), "--output-dir", str(tmp_path / "m")], naming=str(tmp_path)
    )
    assert "directory" in message


def test_invalid_json_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text('{\n "test_cases": [\n  {"memory_id": 1,,}\n ]\n}', encoding="utf-8")
    message = fails(run_arguments(file, tmp_path / "out"), naming="suite.json")
    assert "line 3" in message
    assert "column" in message


def test_training_data_invalid_json(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    file.write_text('{"examples": [}', encoding="utf-8")
    message = fails(
        ["train", "--training-data", str(file), "--output-dir", str(tmp_path / "m")], naming="training.json"
    )
    assert "line 1" in message


def test_suite_without_queries(tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text(
        json.dumps({"test_cases": [{"memory_id": 1, "content": "text", "generated_queries": []}]}), encoding="utf-8"
    )
    fails(run_arguments(file, tmp_path / "out"), naming="suite")


def test_query_whose_memory_is_not_in_the_corpus(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "corpus.jsonl").write_text('{"_id": "m1", "text": "one"}\n', encoding="utf-8")
    (data / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n', encoding="utf-8")
    (data / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tm2\t1\n", encoding="utf-8")
    message = fails(run_arguments(data, tmp_path / "out"), naming="m2")
    assert "qrels.tsv" in message


@pytest.mark.parametrize("name", ["no-such-organisation/no-such-model", "./no/such/folder"])
def test_unknown_base_model(suite: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails([*run_arguments(suite, tmp_path / "out"), "--base-model", name], naming=name)
    assert list(tmp_path.iterdir()) == []


def test_output_folder_that_holds_a_run(suite: Path, finished_run: Path) -> None:
    before = sorted(path.name for path in finished_run.iterdir())
    message = fails(run_arguments(suite, finished_run), naming=str(finished_run))
    assert "already holds a run" in message
    assert sorted(path.name for path in finished_run.iterdir()) == before


def test_output_that_is_a_file(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    fails(run_arguments(suite, tmp_path / "out"), naming="is a file")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("damage", ["truncated weights", "no weights", "broken config", "broken record"])
def test_damaged_model_folder(suite: Path, finished_run: Path, tmp_path: Path, damage: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished_run / "model", model)
    weights = model / "model.safetensors"
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1_000_000])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "broken config":
        (model / "config.json").write_text("{", encoding="utf-8")
    else:
        (model / "ace_finetune.json").write_text("[", encoding="utf-8")
    output = tmp_path / "report.json"
    fails(["evaluate", "--data", str(suite), "--model", str(model), "--output", str(output)], naming=str(model))
    assert not output.exists()


def test_evaluating_on_trained_queries_only_is_refused(finished_run: Path, tmp_path: Path) -> None:
    data = json.loads((finished_run / "training_data.json").read_text(encoding="utf-8"))
    trained = [example for example in data["examples"] if example["split"] == "train"][:5]
    suite = {
        "test_cases": [
            {"memory_id": i, "content": example["positive"], "generated_queries": [{"query": example["query"]}]}
            for i, example in enumerate({example["positive"]: example for example in trained}.values())
        ]
    }
    file = tmp_path / "seen.json"
    file.write_text(json.dumps(suite), encoding="utf-8")
    message = fails(["evaluate", "--data", str(file), "--model", str(finished_run / "model")], naming="seen")
    assert "trained on" in message


def test_search_without_a_run(tmp_path: Path) -> None:
    fails(["search", "anything", "--run", str(tmp_path)], naming="no finished run")


def test_unknown_difficulty(suite: Path, tmp_path: Path) -> None:
    refused = runner.invoke(app, [*run_arguments(suite, tmp_path / "out"), "--min-difficulty", "brutal"])
    assert refused.exit_code == 2
    assert "'brutal' is not one of" in refused.stderr


def test_wrong_setting_names_itself(suite: Path, tmp_path: Path) -> None:
    fails([*run_arguments(suite, tmp_path / "out"), "--learning-rate", "-1"], naming="learning_rate")


def test_original_entry_points_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "no.json")
    assert data_generator.main(["--test-suite", missing, "--output", str(tmp_path / "o.json")]) == 2
    assert finetune_embeddings.main(["--training-data", missing, "--output-dir", str(tmp_path / "m")]) == 2
    assert evaluate_finetuned.main(["--test-suite", missing, "--output", str(tmp_path / "r.json")]) == 2
    assert finetuned_retrieval.main(["--model", str(tmp_path / "m"), "--query", "x"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 4
    assert list(tmp_path.iterdir()) == []


def test_too_few_examples(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    examples = [{"query": f"q{i}", "positive": f"p{i}", "negatives": []} for i in range(4)]
    file.write_text(json.dumps({"examples": examples}), encoding="utf-8")
    fails(["train", "--training-data", str(file), "--output-dir", str(tmp_path / "m")], naming="at least 8")
    assert not (tmp_path / "m").exists()


def test_audit_of_a_run_with_a_corrupt_manifest(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "manifest.json").write_text("{", encoding="utf-8")
    fails(["audit", str(run)], naming="manifest.json")
