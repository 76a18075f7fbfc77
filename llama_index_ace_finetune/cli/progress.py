"""ConsoleEvents: messages and progress bars of the pipeline, on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from llama_index_ace_finetune.cli.console import console, current_output, make_console, status_console
from llama_index_ace_finetune.pipeline.events import PipelineEvents, StepsProgress, TextsProgress
from llama_index_ace_finetune.utils.terminal import VisibleStream

_PHASE, _BAR, _FIGURES = 19, 28, 47  # columns of the phase, of the bar at most, and of the figures with their gaps


class ConsoleEvents(PipelineEvents):
    """Prints messages unless --quiet is on, warnings always, and shows progress bars if there is a terminal."""

    def __init__(self) -> None:
        self._live: tuple[Progress, TaskID] | None = None

    def on_message(self, text: str) -> None:
        """Print a message."""
        status_console().print(text, markup=False)

    def on_warning(self, text: str) -> None:
        """Print a warning on standard error."""
        console(stderr=True).print(text, markup=False)

    def on_phase(self, label: str) -> None:
        """Show the phase in the bar."""
        if self._live:
            progress, task = self._live
            progress.update(task, description=label)

    @contextmanager
    def texts_progress(self, label: str, total: int | None) -> Iterator[TextsProgress]:
        """Show a bar of encoded texts with rate and time left (not if `total` is None)."""
        with self._bar(label, total) as (progress, task):
            yield lambda count: progress.advance(task, count)

    @contextmanager
    def steps_progress(self, label: str) -> Iterator[StepsProgress]:
        """Show a bar of training steps with rate and time left, and below it loss, dev MRR and rates."""
        with self._bar(label, None) as (progress, task):
            planned = 0

            def update(step: int, total: int, latest: dict[str, float]) -> None:
                nonlocal planned
                if total != planned:
                    planned = total
                    progress.reset(task, total=total)  # another mode: the speed of the last one does not count
                parts = [f"{name.replace('_', ' ')} {_figure(value)}" for name, value in latest.items()]
                progress.update(task, completed=step, detail="  ".join(parts))

            yield update

    @contextmanager
    def _bar(self, label: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
        quiet = current_output().quiet
        screen = make_console(stderr=True, quiet=quiet)
        with _Bar(screen, disable=quiet or not screen.is_terminal) as progress, _above(progress):
            self._live = progress, progress.add_task(label, total=total, detail="")
            try:
                yield self._live
            finally:
                self._live = None


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.{0 if speed >= 100 else 1}f}/s" if speed else "", style="progress.data.speed")


class _TimeLeft(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        known = super().render(task)
        return known if task.finished or task.total is None else Text(f"{known} left", style=known.style)


class _Bar(Progress):
    """A bar whose phase, counts, rate and time left are whole at every width; details are in a line below it."""

    def __init__(self, screen: Console, *, disable: bool) -> None:
        whole = Column(no_wrap=True)
        room = min(_BAR, screen.width - _PHASE - _FIGURES)
        super().__init__(
            TextColumn(f"{{task.description:<{_PHASE}}}", markup=False, table_column=whole),
            *([BarColumn(bar_width=room)] if room > 4 else []),
            MofNCompleteColumn(table_column=whole),
            _Rate(table_column=whole),
            _TimeLeft(elapsed_when_finished=True, table_column=whole),
            console=screen,
            disable=disable,
            redirect_stdout=False,  # see `_above`
            redirect_stderr=False,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["detail"]:
                yield Text(task.fields["detail"], style="dim", no_wrap=True, overflow="ellipsis")


class _LinesAbove:
    """A stream that prints whole lines through the console of a bar, which keeps them above it.

    It is not rich's `FileProxy`, since a console that is given one writes to the stream below it.
    """

    def __init__(self, screen: Console, terminal: TextIO) -> None:
        self._screen, self._terminal, self._rest = screen, terminal, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._screen.print(Text.from_ansi(line), soft_wrap=False)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextmanager
def _above(progress: Progress) -> Iterator[None]:
    """Print what is written to a terminal meanwhile, messages and logs, above the bar instead of into it."""
    screens = [
        (stream, stream.unfiltered)
        for stream in (sys.stdout, sys.stderr)
        if isinstance(stream, VisibleStream) and stream.unfiltered.isatty()
    ]
    for stream, terminal in screens if not progress.disable else ():
        stream.unfiltered = cast(TextIO, _LinesAbove(progress.console, terminal))
    try:
        yield
    finally:
        for stream, terminal in screens:
            stream.unfiltered.flush()
            stream.unfiltered = terminal
