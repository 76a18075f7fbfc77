"""Run what a verb does, and end with its exit code."""

from __future__ import annotations

from collections.abc import Callable

import typer

from llama_index_ace_finetune.utils.console import speaking


def execute(command: Callable[[], int | None], *, as_json: bool = False) -> None:
    """Run a command and leave with its exit code (`run_command`); with `as_json`, its result is printed as JSON."""
    from llama_index_ace_finetune.utils.console import run_command

    with speaking(as_json=as_json):
        status = run_command(command)
    raise typer.Exit(status)
