"""The commands of the documentation: parse them with their programs, and run them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import typer
from helpers.doc_snippets import PROJECT

from llama_index_ace_finetune.cli import app

PACKAGE = "llama_index_ace_finetune"
_APP = typer.main.get_command(app)
VERBS = _APP.commands  # type: ignore[attr-defined]

_MINUTES = "0.2"
_MODULES = ("data_generator", "finetune_embeddings", "evaluate_finetuned", "finetuned_retrieval")
_TARGETS = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
_PYPROJECT = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
_EXTRAS = set(re.findall(r"^(\w+) = \[", _PYPROJECT.split("[project.optional-dependencies]")[1], re.MULTILINE))


def check_command(words: list[str]) -> None:
    """Raise AssertionError for a command that its program would reject; nothing is run."""
    try:
        _parse(*words)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{' '.join(words)}: {error}") from error


def _parse(program: str, *rest: str) -> None:
    if program == "ace-finetune":
        verb, *options = rest
        if verb not in ("--help", "--install-completion") and "--help" not in options:
            VERBS[verb].make_context(verb, options)
    elif program == "make":
        assert set(rest) <= _TARGETS
    elif program == "pip":
        for extras in re.findall(r"llama-index-ace-finetune\[([\w,]+)\]", " ".join(rest)):
            assert set(extras.split(",")) <= _EXTRAS
    elif program == "python" and rest[0] == "-m" and rest[1].startswith(f"{PACKAGE}."):
        importlib.import_module(rest[1]).build_parser().parse_args(rest[2:])
    elif program == "python" and rest[0] != "-m":
        assert (PROJECT / rest[0]).is_file()
    else:
        assert program in ("source", "export", "docker") or rest[1] in ("venv", "pytest")


def options_of(verb: str) -> set[str]:
    return {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}


def original_options() -> set[str]:
    """Every option of the original's commands."""
    parsers = [importlib.import_module(f"{PACKAGE}.{name}").build_parser() for name in _MODULES]
    options = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    return options - {"-h", "--help"}


def known_options() -> set[str]:
    """Every option of every verb and of the original's commands."""
    for_all = {option for parameter in _APP.params for option in parameter.opts}
    completion = {"--install-completion", "--show-completion"}
    return original_options().union(*map(options_of, VERBS), for_all, completion, {"--help"})


def is_run(words: list[str]) -> bool:
    """Whether the tests run a command; installations and the demo are run by `make` only."""
    if words[0] == "ace-finetune":
        return words[1] != "demo"
    return words[:2] == ["python", "-m"] and words[2].startswith(f"{PACKAGE}.")


def execute(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, *words[1:]]
    if words[0] == "ace-finetune":
        program = [sys.executable, "-c", f"from {PACKAGE}.cli import main; main()", *words[1:]]
    if words[:2] == ["ace-finetune", "run"]:
        program += ["--budget", _MINUTES]  # the last value wins
    environment = {**os.environ, "BROWSER": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False, env=environment)
