"""Run a command: exit code, errors as one sentence, streams that no text can break."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.markup import escape

from llama_index_ace_finetune.cli.console import console, current_output, output_options
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.memory import is_out_of_memory
from llama_index_ace_finetune.utils.os_errors import os_error_sentence
from llama_index_ace_finetune.utils.redact import without_passwords
from llama_index_ace_finetune.utils.terminal import VisibleStream, accept_any_text

EXIT_REJECTED, EXIT_USER_ERROR, EXIT_BUG, EXIT_INTERRUPTED, EXIT_OUTPUT_CLOSED = 1, 2, 3, 130, 141

_OUT_OF_MEMORY = (
    "Out of memory: lower batch_size (--batch-size) or max_seq_length, choose a smaller --base-model, or "
    "leave the GPU with --device cpu."
)


def execute(command: Callable[[], int | None], *, as_json: bool = False) -> None:
    """Run a command and exit with its code (see `run_command`); with `as_json`, its result is printed as JSON."""
    with output_options(as_json=as_json):
        status = run_command(command)
    raise typer.Exit(status)


def typed_command() -> str:
    """Return the command line, without passwords, for reports."""
    return without_passwords(shlex.join(["ace-finetune", *sys.argv[1:]]))


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return the exit code.

    That is the command's own (None is 0; 1 is a required gate that is not met), 2 for a user error, 3 for a bug, 130
    for Ctrl-C, 141 if the output was closed, as with `| head`. A user error, or an operating system error about a file,
    is printed as one sentence, without a traceback unless `--verbose` is on. Whatever any library prints meanwhile is
    stripped of control characters and fits the encoding of the stream.
    """
    from llama_index_ace_finetune.utils.memory import keep_freed_memory

    keep_freed_memory()
    with _filtered_streams():
        _quieten_libraries()
        try:
            return _status(command)
        except BrokenPipeError:
            # The reader has gone; what is still in the buffer is dropped.
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return EXIT_OUTPUT_CLOSED


def _status(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except AceFinetuneError as error:
        return _user_error(str(error))
    except KeyboardInterrupt:
        console(stderr=True).print("stopped")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            return _user_error(_OUT_OF_MEMORY)
        if sentence := os_error_sentence(error):
            return _user_error(sentence)
        traceback.print_exc()
        console(stderr=True).print(
            "[bold red]fault:[/] This is a fault of the program; please report it with the lines above."
        )
        return EXIT_BUG


def _user_error(sentence: str) -> int:
    """Print the user error that is being handled, as one sentence."""
    if current_output().verbose:
        traceback.print_exc()
    console(stderr=True).print(f"[bold red]error:[/] {escape(without_passwords(sentence))}")
    return EXIT_USER_ERROR


@contextmanager
def _filtered_streams() -> Iterator[None]:
    """Filter what libraries write to the standard streams, log handlers that exist already included."""
    accept_any_text()
    streams: dict[Any, Any] = {stream: VisibleStream(stream) for stream in (sys.stdout, sys.stderr)}
    before = (sys.stdout, sys.stderr)
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            # Some handlers get the stream at each line.
            if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") in streams:
                handler.setStream(streams[handler.stream])
    sys.stdout, sys.stderr = streams[sys.stdout], streams[sys.stderr]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _quieten_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    output = current_output()
    level = logging.DEBUG if output.verbose else logging.ERROR if output.quiet else logging.WARNING
    logging.getLogger("llama_index_ace_finetune").setLevel(level)
