"""Terminal output: messages, progress, and errors without tracebacks."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, TextIO

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
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.memory import is_out_of_memory
from llama_index_ace_finetune.utils.os_errors import os_error_sentence
from llama_index_ace_finetune.utils.redact import without_passwords
from llama_index_ace_finetune.utils.terminal import VisibleStream, accept_any_text, json_visible, visible


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """How a command speaks.

    Attributes:
        quiet: results and errors alone, no progress.
        verbose: log what is done, and show where errors come from.
        as_json: results as JSON on standard output, all else on standard error.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


# A context variable, since every stage prints and none of them should have to hand this on.
_VOICE: ContextVar[Voice] = ContextVar("voice", default=Voice())  # noqa: B039 - it is frozen


def voice() -> Voice:
    """Return how the running command speaks."""
    return _VOICE.get()


@contextmanager
def speaking(**changes: bool) -> Iterator[None]:
    """Speak otherwise inside the block: `quiet`, `verbose`, `as_json`."""
    token = _VOICE.set(replace(_VOICE.get(), **changes))
    try:
        yield
    finally:
        _VOICE.reset(token)


_OUT_OF_MEMORY = (
    "The memory does not suffice; lower batch_size (--batch-size) or max_seq_length, choose a smaller --base-model, or "
    "leave the GPU with --device cpu."
)

REFUSED, USER_ERROR, FAULT, STOPPED, UNREAD = 1, 2, 3, 130, 141
_NARROW, _WIDE = 80, 160  # columns


class _Console(Console):
    """A console that shows control characters instead of sending them, and leaves it to us how to end."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)  # before columns are measured

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


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
    out = _unfiltered(sys.stdout)
    out.write(f"{json_visible(text)}\n")
    out.flush()


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return the exit status.

    That is its own (None is 0; 1 is a required gate that is not met), 2 for a user error, 3 for a fault of the program,
    130 for Ctrl-C, 141 where nobody reads the output any more, as with `| head`. A user error, one of the operating
    system about a file included, is printed as one sentence, without a traceback unless `--verbose` is on. Whatever is
    printed meanwhile, by any library, cannot command the terminal and fits the encoding of the stream.
    """
    from llama_index_ace_finetune.utils.memory import keep_freed_memory

    keep_freed_memory()
    with _filtered_streams():
        _quieten_libraries()
        try:
            return _status(command)
        except BrokenPipeError:
            # Whoever read the output has gone; what is still in the buffer goes nowhere.
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return UNREAD


def _status(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except AceFinetuneError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        console(stderr=True).print("stopped")
        return STOPPED
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            return _refuse(_OUT_OF_MEMORY)
        if sentence := os_error_sentence(error):
            return _refuse(sentence)
        traceback.print_exc()
        console(stderr=True).print(
            "[bold red]fault:[/] This is a fault of the program; please report it with the lines above."
        )
        return FAULT


def _refuse(sentence: str) -> int:
    """Print the sentence of the user error that is being handled."""
    if voice().verbose:
        traceback.print_exc()
    console(stderr=True).print(f"[bold red]error:[/] {escape(without_passwords(sentence))}")
    return USER_ERROR


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
    screen = _console(stderr=True, quiet=voice().quiet)
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
    stream = _unfiltered(sys.stderr if stderr else sys.stdout)
    # A file has no width, and a table in it may be as wide as it is.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return _Console(file=stream, quiet=quiet, width=width, highlight=False, emoji=False, soft_wrap=True)


def _unfiltered(stream: Any) -> TextIO:
    """Return the stream for what is filtered before it is styled."""
    unfiltered: TextIO = stream.unfiltered if isinstance(stream, VisibleStream) else stream
    return unfiltered


@contextmanager
def _filtered_streams() -> Iterator[None]:
    """Filter what libraries write to the standard streams, those that have log handlers on them already included."""
    accept_any_text()
    streams: dict[Any, Any] = {stream: VisibleStream(stream) for stream in (sys.stdout, sys.stderr)}
    before = (sys.stdout, sys.stderr)
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            # Some handlers look the stream up themselves, at each line.
            if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") in streams:
                handler.setStream(streams[handler.stream])
    sys.stdout, sys.stderr = streams[sys.stdout], streams[sys.stderr]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.item() if hasattr(value, "item") else str(value)


def _quieten_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    level = logging.DEBUG if voice().verbose else logging.ERROR if voice().quiet else logging.WARNING
    logging.getLogger("llama_index_ace_finetune").setLevel(level)
