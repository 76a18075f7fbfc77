"""What reaches a terminal or a pipe: any text in any encoding, and no control characters or passwords."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.cli.console import emit, output_options
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.cli.progress import ConsoleEvents
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.qdrant.live_collection import LiveCollection

TEXT = "ディスク 磁盘已满 — Größe 😀 \ud83d"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"


@pytest.fixture
def foreign_suite(tmp_path: Path) -> Path:
    rows = [{"query": f"{text} {n}", "answer": f"{text} {n}"} for n in range(3) for text in ("磁盘已满", "ディスク")]
    path = tmp_path / "foreign.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def streams(monkeypatch: pytest.MonkeyPatch, encoding: str) -> tuple[io.BytesIO, io.BytesIO]:
    written = io.BytesIO(), io.BytesIO()
    for name, buffer in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, write_through=True))
    return written


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "shift_jis", "latin-1", "utf-8", "utf-16"])
@pytest.mark.parametrize("as_json", [False, True])
def test_every_text_is_printed_in_every_encoding(as_json: bool, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def human(screen: Console) -> None:
        screen.print(TEXT, markup=False)
        table = Table("column", "…")
        table.add_row(TEXT, "─")
        screen.print(table)

    def command() -> None:
        with ConsoleEvents().texts_progress(TEXT, 1) as progress:
            progress(1)
        emit({"text": TEXT}, human)
        print(TEXT)
        raise AceFinetuneError(TEXT)

    out, err = streams(monkeypatch, encoding)
    with output_options(as_json=as_json):
        assert run_command(command) == 2
    assert "error: " in err.getvalue().decode(encoding)
    shown = out.getvalue().decode(encoding)
    if as_json:
        assert json.loads(shown[: shown.index("}") + 1]) == {"text": TEXT}
    elif encoding.startswith("utf"):
        assert TEXT[:-1] in shown
    else:
        assert "\\u78c1" in shown or encoding == "shift_jis"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "shift_jis:strict"},
    ],
)
def test_inspect_prints_in_a_foreign_encoding(environment: dict[str, str], foreign_suite: Path) -> None:
    command = [sys.executable, "-c", "from llama_index_ace_finetune.cli import main; main()"]
    done = subprocess.run(
        [*command, "inspect", "--data", str(foreign_suite)],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_closed_stream_is_no_bug(stream: str) -> None:
    code = (
        "from llama_index_ace_finetune.cli.console import console\n"
        "from llama_index_ace_finetune.cli.execute import run_command\n"
        f"run_command(lambda: console(stderr={stream == 'stderr'}).print('text'))"
    )
    closed = {"stdout": ">&-", "stderr": "2>&-"}[stream]
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def _by_log(text: str) -> None:
    logging.getLogger("llama_index_ace_finetune.some").error("loaded %s", text)


def _by_log_of_a_library(text: str) -> None:
    logger = logging.getLogger("a_library_with_a_handler")
    logger.propagate = False
    logger.handlers = [logging.StreamHandler()]
    logger.error("loaded %s", text)


def _by_fault(text: str) -> None:
    raise ZeroDivisionError(text)


def _by_error(text: str) -> None:
    raise AceFinetuneError(text)


def _by_file_name(text: str) -> None:
    raise FileNotFoundError(2, "No such file", f"/data/{text}")


def _by_result(text: str) -> None:
    emit({"text": text}, lambda screen: screen.print(Text(text)))


WAYS = (_by_log, _by_log_of_a_library, _by_fault, _by_error, _by_file_name, _by_result, print)


@pytest.mark.parametrize("way", WAYS)
def test_no_output_path_passes_control_characters(way: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch, "utf-8")
    monkeypatch.setattr(logging.root, "handlers", [])
    run_command(lambda: way(HOSTILE))
    shown = (out.getvalue() + err.getvalue()).decode()
    assert "\\x1b]0;owned" in shown
    assert not set(HOSTILE) & set(shown) - set("]0;owned[2J31mgnp")


@pytest.mark.parametrize("way", [one for one in WAYS[:-2] if one is not _by_file_name])
def test_no_message_contains_passwords(way: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch, "utf-8")
    monkeypatch.setattr(logging.root, "handlers", [])
    run_command(lambda: way("http://user:hunter2@host/?api_key=hunter2"))
    shown = (out.getvalue() + err.getvalue()).decode()
    assert "http://***@host/?api_key=***" in shown
    assert "hunter2" not in shown.replace('way("http://user:hunter2@host/?api_key=hunter2")', "")


def test_usage_errors_are_filtered() -> None:
    for arguments in (["search", "x", "--run", "y", "--limit", HOSTILE], ["search", f"--{HOSTILE}"], [HOSTILE]):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert not set("\x1b\x07\x9b\u202e") & set(refused.output)


def test_store_errors_hide_passwords() -> None:
    url = "http://user:hunter2@localhost:1/"
    with pytest.raises(StoreError) as of_store:
        MemoryStore.open(url=url, client_options={"check_compatibility": False, "timeout": 1})
    live = LiveCollection(url, embedding_url=url)
    with pytest.raises(StoreError) as of_collection:
        live.memories()
    with pytest.raises(StoreError) as of_endpoint:
        live.search("x", 1)
    for error in (of_store, of_collection, of_endpoint):
        assert "hunter2" not in str(error.value)
        assert "***@localhost" in str(error.value)


@pytest.mark.parametrize("query", ["-bash: foo: command not found", "--limits exceeded", "-x", "-h flag ignored"])
def test_error_for_query_with_leading_dash_explains_separator(query: str) -> None:
    refused = CliRunner().invoke(app, ["search", query, "--run", "nowhere"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert "put -- before that text: " in refused.output
    passed = CliRunner().invoke(app, ["search", "--run", "nowhere", "--", query])
    assert "no finished run" in passed.stderr


def test_misspelt_option_is_not_taken_for_a_query() -> None:
    assert "put --" not in CliRunner().invoke(app, ["search", "x", "--limitt", "y"]).output
