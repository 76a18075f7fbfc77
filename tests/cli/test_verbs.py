"""All verbs: help, output options, exit codes."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.console import console, current_output, emit, output_options, status_console
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.cli.summary import print_summary
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

runner = CliRunner()
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def ace_finetune(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from llama_index_ace_finetune.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


class TestHelp:
    def test_it_fits_a_screen_and_lists_the_verbs_in_the_order_of_use(self) -> None:
        shown = runner.invoke(app, ["--help"], env={"COLUMNS": "80"}).output
        assert len(shown.splitlines()) <= 60
        assert re.findall(r"^│ (\w[\w-]*) +[A-Z]", shown, re.MULTILINE) == list(VERBS)
        assert list(VERBS)[:5] == ["doctor", "demo", "inspect", "init", "run"]
        for code in ("0 done", "1 gate not met", "2 user error", "3 fault of", "130 stopped", "141 output"):
            assert code in " ".join(shown.split())

    @pytest.mark.parametrize("verb", list(VERBS))
    def test_every_verb_has_an_example_that_parses(self, verb: str) -> None:
        shown = runner.invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
        examples = [shlex.split(example) for example in re.findall(r"Example: ace-finetune (.*)", shown)]
        assert examples, shown
        for words in examples:
            assert words[0] == verb
            VERBS[verb].make_context(verb, words[1:])

    @pytest.mark.parametrize("columns", ["50", "80", "200"])
    @pytest.mark.parametrize("verb", list(VERBS))
    def test_every_option_is_named_in_full_whatever_the_width(self, verb: str, columns: str) -> None:
        shown = runner.invoke(app, [verb, "--help"], env={"COLUMNS": columns}).output
        named = {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {option for option in named if option.startswith("--") and option not in shown} == set()
        assert "bool" not in shown
        assert "[cyan]" not in shown

    @pytest.mark.parametrize("columns", ["50", "200"])
    def test_options_of_a_run_are_in_groups_whatever_the_width(self, columns: str) -> None:
        shown = runner.invoke(app, ["run", "--help"], env={"COLUMNS": columns}).output
        places = [
            shown.index(text) for text in ("--data", "Model", "--base-model", "Mining", "--range-max", "Training")
        ]
        assert places == sorted(places)
        assert shown.index("Training") < shown.index("--epochs") < shown.index("System to serve")
        assert "Arguments" in runner.invoke(app, ["search", "--help"], env={"COLUMNS": columns}).output

    @pytest.mark.parametrize("verb", list(VERBS))
    def test_every_verb_prints_json(self, verb: str) -> None:
        assert "--json" in {option for parameter in VERBS[verb].params for option in parameter.opts}

    def test_similar_words_are_suggested(self) -> None:
        assert "Did you mean 'evaluate'" in runner.invoke(app, ["evaluat"]).output
        misspelt = runner.invoke(app, ["run", "--data", "x", "--out", "y", "--epoch", "3"])
        assert (misspelt.exit_code, "--epochs" in misspelt.output) == (2, True)

    def test_run_says_what_is_missing(self) -> None:
        missing = runner.invoke(app, ["run", "--data", "x"])
        assert missing.exit_code == 2
        assert "--out" in missing.output
        assert "--config" in missing.output


class TestOutputOptions:
    @pytest.mark.parametrize("words", [["--quiet", "inspect"], ["inspect", "--quiet"]])
    def test_quiet_is_accepted_before_and_after_the_verb(
        self, words: list[str], suite: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quiet: list[bool] = []

        def inspect_data(*_: object, **__: object) -> None:
            quiet.append(current_output().quiet)
            raise AceFinetuneError("Stopped here.")

        monkeypatch.setattr("llama_index_ace_finetune.pipeline.inspect.inspect", inspect_data)
        assert runner.invoke(app, [*words, "--data", str(suite)]).exit_code == 2
        assert quiet == [True]
        assert current_output().quiet is False

    def test_a_query_may_look_like_an_option(self, tmp_path: Path) -> None:
        asked = runner.invoke(app, ["search", "--run", str(tmp_path), "--", "--quiet"])
        assert "no finished run" in asked.stderr

    def test_quiet_keeps_results_and_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        def command() -> None:
            status_console().print("on the way")
            emit({}, lambda screen: screen.print("the result"))
            raise AceFinetuneError("Something is wrong.")

        with output_options(quiet=True):
            assert run_command(command) == 2
        said = capsys.readouterr()
        assert said.out == "the result\n"
        assert said.err == "error: Something is wrong.\n"

    def test_only_json_is_on_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        def command() -> None:
            status_console().print("on the way")
            emit({"text": "[red]Größe :smile:", "set": {2, 1}}, lambda screen: screen.print("the result"))

        with output_options(as_json=True):
            assert run_command(command) == 0
        said = capsys.readouterr()
        assert json.loads(said.out) == {"text": "[red]Größe :smile:", "set": [1, 2]}
        assert said.err == "on the way\n"

    @pytest.mark.parametrize("as_json", [False, True])
    def test_text_cannot_control_the_terminal(self, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
        text = "\x1b]52;c;b3duZWQ=\x1b\\ \x9b31m\x7f\r[bold]Größe[/]\n\tend"

        def human(screen: Console) -> None:
            screen.print(text, markup=False)
            table = Table("column")
            table.add_row(escape(text))
            screen.print(table)

        def command() -> None:
            emit({"text": text}, human)
            raise AceFinetuneError(text)

        with output_options(as_json=as_json):
            assert run_command(command) == 2
        said = capsys.readouterr()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said.out + said.err)
        if as_json:
            assert json.loads(said.out) == {"text": text}
        else:
            assert said.out.startswith("\\x1b]52;c;b3duZWQ=\\x1b\\ \\x9b31m\\x7f\\x0d[bold]Größe[/]\n")

    def test_verbose_traces_errors_and_logs(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            raise AceFinetuneError("Something is wrong.")

        logger = logging.getLogger("llama_index_ace_finetune")
        before = logger.level
        try:
            with output_options(verbose=True):
                assert run_command(fail) == 2
                assert logger.level == logging.DEBUG
        finally:
            logger.setLevel(before)
        assert "Traceback" in capsys.readouterr().err

    def test_no_color(self) -> None:
        colored = ace_finetune("report", "none", FORCE_COLOR="1", NO_COLOR="")
        plain = ace_finetune("report", "none", FORCE_COLOR="1", NO_COLOR="1")
        assert "\x1b[1;31m" in colored.stderr
        assert "\x1b[1;31m" not in plain.stderr
        assert "\x1b[3" not in plain.stderr
        assert (colored.returncode, plain.returncode) == (2, 2)


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "status", "told"),
        [
            (AceFinetuneError("Wrong."), 2, "error: Wrong."),
            (KeyboardInterrupt(), 130, "stopped"),
            (ZeroDivisionError("by zero"), 3, "fault of the program"),
            (MemoryError(), 2, "--batch-size"),
            (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), 2, "--batch"),
            (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "--device cpu"),
        ],
    )
    def test_of_an_error(
        self, error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise error

        assert run_command(fail) == status
        said = capsys.readouterr().err
        assert told in said
        assert ("Traceback" in said) == (status == 3)

    @pytest.mark.parametrize("status", [0, 1])
    def test_of_a_result(self, status: int) -> None:
        assert run_command(lambda: status) == status

    @pytest.mark.parametrize(
        "arguments", [["runn"], ["run", "--no-such"], ["search"], ["search", "x", "--run", "none"]]
    )
    def test_of_usage_errors(self, arguments: list[str]) -> None:
        assert runner.invoke(app, arguments).exit_code == 2

    def test_of_a_closed_output(self) -> None:
        code = (
            "from llama_index_ace_finetune.cli.console import emit\n"
            "from llama_index_ace_finetune.cli.execute import run_command\n"
            "raise SystemExit(run_command(lambda: emit({}, lambda screen: screen.print('line\\n' * 100_000))))"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.close()
            assert running.stderr.read() == b""
            assert running.wait() == 141

    def test_of_a_required_gain(self) -> None:
        from llama_index_ace_finetune.cli.summary import required_gain

        gain = asdict(PairedDifference(mean=0.07, low=0.04, high=0.1, p_value=0.001, wins=9, ties=3, losses=1))
        by_chance = {**gain, "p_value": 0.2}

        def status(ship_tuned: bool, against_base: dict[str, float], against_untuned: dict[str, float] | None) -> int:
            differences = {"against_base": against_base, "against_untuned": against_untuned}
            system = {"name": "BM25", "description": "BM25"}
            verdict = {"ship_tuned": ship_tuned, "system": system, "best_untuned": "BM25", **differences}
            return required_gain({"verdict": verdict})

        assert (status(True, gain, gain), status(True, gain, None)) == (0, 0)
        assert (status(True, by_chance, gain), status(True, gain, by_chance), status(False, gain, gain)) == (1, 1, 1)


class TestTables:
    @staticmethod
    def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None) -> str:
        if columns is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", str(columns))
        gain = asdict(PairedDifference(mean=0.07, low=0.038, high=0.103, p_value=0.001, wins=9, ties=3, losses=1))
        rows = [("BM25", None, gain), ("base", None, None), ("tuned + BM25, dev weights", (0.5, 0.5), gain)]
        means = {"Success@1": 0.567, "Success@5": 0.678, "MRR@10": 0.789}
        report = {
            "metadata": {"total_queries_evaluated": 300, "corpus_size": 240},
            "systems": [
                {"name": n, "weights": w, "means": means, "difference_to_base": {"MRR@10": d}} for n, w, d in rows
            ],
            "serving": {"system": "base"},
            "verdict": {"system": {"name": "base"}, "confirmed": True, "sentence": "KEEP.", "warnings": []},
            "learning_curve": None,
        }
        print_summary(report, console())
        return capsys.readouterr().out

    @pytest.mark.parametrize("columns", [45, 60, 79])
    def test_narrow_terminal_cuts_no_figure(
        self, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = self.shown(monkeypatch, capsys, columns)
        assert (shown.count("0.789"), shown.count("+0.070  [+0.038, +0.103]")) == (3, 2)
        assert "…" not in shown
        table, sentence, _ = shown.partition("The base model is served")
        assert sentence
        assert max(map(len, table.splitlines()[2:])) <= columns

    def test_table_in_a_file_is_not_cut(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        row = "│ tuned + BM25, dev weights (0.5 : 0.5) │ 0.567 │ 0.678 │  0.789 │ +0.070  [+0.038, +0.103] │"
        assert row in self.shown(monkeypatch, capsys, None)
        assert row not in self.shown(monkeypatch, capsys, 80)


def test_inspect_prints_json(suite: Path) -> None:
    done = runner.invoke(app, ["inspect", "--data", str(suite), "--json"])
    found = json.loads(done.stdout)
    assert (found["memories"], found["queries"], found["format"]) == (24, 120, "ace_suite")
    assert 0 <= found["bm25"]["recall_at_1"] <= 1


def test_verbs_are_completed() -> None:
    environment = {"_ACE_FINETUNE_COMPLETE": "complete_bash", "COMP_WORDS": "ace-finetune ev", "COMP_CWORD": "1"}
    done = runner.invoke(app, [], prog_name="ace-finetune", env=environment)
    assert done.output.split() == ["evaluate"]
