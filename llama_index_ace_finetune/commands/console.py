"""Terminal output: messages, progress, and errors without tracebacks."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from llama_index_ace_finetune.errors import AceFinetuneError

USER_ERROR = 2


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error for errors and progress."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return the exit status: its own (None is 0), 2 for a user's error, 130 for Ctrl-C.

    A user's error is printed as one sentence, without a traceback.
    """
    from llama_index_ace_finetune.encoders.allocator import keep_freed_memory

    keep_freed_memory()
    _quieten_libraries()
    try:
        return command() or 0
    except AceFinetuneError as error:
        console(stderr=True).print(f"[bold red]error:[/] {_escape(str(error))}")
        return USER_ERROR
    except KeyboardInterrupt:
        console(stderr=True).print("stopped")
        return 130


@contextmanager
def texts_progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of texts done with rate and time left (unknown where `total` is None); nothing without a terminal."""
    with _bar(label) as progress:
        task = progress.add_task(label, total=total, detail="")
        yield lambda count: progress.advance(task, count)


@contextmanager
def steps_progress(label: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """Show a bar of training steps with loss, dev MRR, rate and time left; nothing when the output is no terminal."""
    with _bar(label) as progress:
        task = progress.add_task(label, total=None, detail="")

        def update(step: int, total: int, latest: dict[str, float]) -> None:
            parts = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in latest.items()]
            progress.update(task, completed=step, total=total, detail="  ".join(parts))

        yield update


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def _bar(label: str) -> Progress:
    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=screen,
        disable=not screen.is_terminal,
    )


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _quieten_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    logging.getLogger("llama_index_ace_finetune").setLevel(logging.WARNING)
