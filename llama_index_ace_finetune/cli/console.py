"""Output options, consoles, and printing of results as text or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from llama_index_ace_finetune.utils.terminal import VisibleStream, json_visible, visible


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """How much a command prints, and where.

    Attributes:
        quiet: only results and errors.
        verbose: debug logging and tracebacks.
        as_json: results as JSON on standard output, all else on standard error.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


# A context variable, so that not every function that prints takes the options as an argument.
_OPTIONS: ContextVar[OutputOptions] = ContextVar("output_options", default=OutputOptions())  # noqa: B039 - it is frozen
_NARROW, _WIDE = 80, 160  # columns


def current_output() -> OutputOptions:
    """Return the output options of the running command."""
    return _OPTIONS.get()


@contextmanager
def output_options(**changes: bool) -> Iterator[None]:
    """Override output options inside the block: `quiet`, `verbose`, `as_json`."""
    token = _OPTIONS.set(replace(_OPTIONS.get(), **changes))
    try:
        yield
    finally:
        _OPTIONS.reset(token)


class _Console(Console):
    """A console that shows control characters instead of sending them, and raises if the pipe is closed."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)  # before columns are measured

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """Return a console for results on standard output; with `stderr`, or with --json, on standard error."""
    return make_console(stderr=stderr or current_output().as_json)


def status_console() -> Console:
    """Return the console for messages while a command runs; --quiet silences it."""
    return make_console(stderr=current_output().as_json, quiet=current_output().quiet)


def make_console(*, stderr: bool, quiet: bool = False) -> Console:
    """Return a console on standard output or standard error."""
    stream = unfiltered(sys.stderr if stderr else sys.stdout)
    # A file has no width: a table in it may be as wide as it needs, and a sentence stays on one line.
    terminal = stream.isatty()
    width = None if terminal or "COLUMNS" in os.environ else _WIDE
    return _Console(file=stream, quiet=quiet, width=width, highlight=False, emoji=False, soft_wrap=not terminal)


def table_for(screen: Console) -> Table:
    """Return a table to fill; in a narrow terminal it has no lines, so that its figures have room."""
    wide = is_wide(screen)
    return Table(header_style="bold", box=box.HEAVY_HEAD if wide else None, pad_edge=wide)


def is_wide(screen: Console) -> bool:
    """Whether a console has room for a table of several figures."""
    return screen.width >= _NARROW


def emit(result: Any, human: Callable[[Console], object]) -> None:
    """Print a result: with --json as JSON on standard output, otherwise as `human` prints it."""
    if not current_output().as_json:
        human(console())
        return
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(result, indent=2, ensure_ascii=not unicode, allow_nan=False, default=_plain)
    out = unfiltered(sys.stdout)
    out.write(f"{json_visible(text)}\n")
    out.flush()


def unfiltered(stream: Any) -> TextIO:
    """Return the stream below a `VisibleStream`, for text that is filtered before it is styled."""
    found: TextIO = stream.unfiltered if isinstance(stream, VisibleStream) else stream
    return found


def _plain(value: Any) -> Any:
    """Return a JSON value for a type that JSON does not have."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.item() if hasattr(value, "item") else str(value)
