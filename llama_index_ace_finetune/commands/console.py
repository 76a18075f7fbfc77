"""Terminal output: messages, progress, and errors without tracebacks."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
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
from rich.table import Table
from rich.text import Text

from llama_index_ace_finetune.commands.voice import voice
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.out_of_memory import is_out_of_memory

_OUT_OF_MEMORY = (
    "The memory does not suffice; lower batch_size (--batch-size) or max_seq_length, choose a smaller --base-model, or "
    "leave the GPU with --device cpu."
)
_DISK_FULL = "The disk is full ({error}); free some space, or write to another one, and repeat the command."

REFUSED, USER_ERROR, FAULT, STOPPED, UNREAD = 1, 2, 3, 130, 141
_NARROW, _WIDE = 80, 160  # columns

# Texts come from strangers, and what a terminal takes for a command is one of these, an escape sequence for example.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Console(Console):
    """A console that shows control characters instead of sending them, and leaves it to us how to end."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text), **options)


def console(*, stderr: bool = False) -> Console:
    """Return a console for results on standard output, or for errors on standard error; there too beside JSON."""
    return _console(stderr=stderr or voice().as_json)


def notes() -> Console:
    """Return the console for what a command tells on its way; it is mute with --quiet."""
    return _console(stderr=voice().as_json, quiet=voice().quiet)


def table_for(screen: Console) -> Table:
    """Return a table to fill; in a narrow terminal it has no lines, so that its figures have room."""
    wide = is_wide(screen)
    return Table(header_style="bold", box=box.HEAVY_HEAD if wide else None, pad_edge=wide)


def is_wide(screen: Console) -> bool:
    """Whether a console has room for a table of several figures."""
    return screen.width >= _NARROW


def show(result: Any, human: Callable[[Console], object]) -> None:
    """Print a result as `human` does; where JSON is asked for, print that on standard output instead."""
    if not voice().as_json:
        human(console())
        return
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(result, indent=2, ensure_ascii=not unicode, allow_nan=False, default=_plain)
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return the exit status.

    That is its own (None is 0), 2 for what a user can put right, 3 for a fault of the program, 130 for Ctrl-C, 141
    where nobody reads the output any more, as with `| head`. A user's error is printed as one sentence, without a
    traceback unless `--verbose` is on.
    """
    from llama_index_ace_finetune.encoders.allocator import keep_freed_memory

    keep_freed_memory()
    _quieten_libraries()
    screen = console(stderr=True)
    try:
        return command() or 0
    except AceFinetuneError as error:
        if voice().verbose:
            traceback.print_exc()
        screen.print(f"[bold red]error:[/] {escape(str(error))}")
        return USER_ERROR
    except KeyboardInterrupt:
        screen.print("stopped")
        return STOPPED
    except BrokenPipeError:
        # Whoever read the output has gone; what is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Exception as error:
        if _is_disk_full(error):
            screen.print(f"[bold red]error:[/] {escape(_DISK_FULL.format(error=' '.join(str(error).split())))}")
            return USER_ERROR
        if is_out_of_memory(error):
            screen.print(f"[bold red]error:[/] {escape(_OUT_OF_MEMORY)}")
            return USER_ERROR
        traceback.print_exc()
        screen.print("[bold red]fault:[/] This is a fault of the program; please report it with the lines above.")
        return FAULT


@contextmanager
def texts_progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of texts done with rate and time left (unknown where `total` is None); nothing without a terminal."""
    with _bar(label) as progress:
        task = progress.add_task(label, total=total, detail="")
        yield lambda count: progress.advance(task, count)


@contextmanager
def steps_progress(label: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """Show a bar of training steps with loss, dev MRR, rates and time left; nothing when the output is no terminal."""
    with _bar(label) as progress:
        task = progress.add_task(label, total=None, detail="")

        def update(step: int, total: int, latest: dict[str, float]) -> None:
            parts = [f"{name.replace('_', ' ')} {_figure(value)}" for name, value in latest.items()]
            progress.update(task, completed=step, total=total, detail="  ".join(parts))

        yield update


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def _bar(label: str) -> Progress:
    screen = Console(stderr=True, quiet=voice().quiet)
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=screen,
        disable=voice().quiet or not screen.is_terminal,
    )


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # A file has no width, and a table in it may be as wide as it is.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return _Console(stderr=stderr, quiet=quiet, width=width, highlight=False, emoji=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.item() if hasattr(value, "item") else str(value)


def _is_disk_full(error: Exception) -> bool:
    """Whether there is no space left; libraries in other languages tell of it by words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _quieten_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    level = logging.DEBUG if voice().verbose else logging.ERROR if voice().quiet else logging.WARNING
    logging.getLogger("llama_index_ace_finetune").setLevel(level)
