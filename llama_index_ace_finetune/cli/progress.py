"""ConsoleEvents: messages and progress bars of the pipeline, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from llama_index_ace_finetune.cli.console import console, current_output, make_console, status_console
from llama_index_ace_finetune.pipeline.events import PipelineEvents, StepsProgress, TextsProgress


class ConsoleEvents(PipelineEvents):
    """Prints messages unless --quiet is on, warnings always, and shows progress bars if there is a terminal."""

    def on_message(self, text: str) -> None:
        """Print a message."""
        status_console().print(text, markup=False)

    def on_warning(self, text: str) -> None:
        """Print a warning on standard error."""
        console(stderr=True).print(text, markup=False)

    @contextmanager
    def texts_progress(self, label: str, total: int | None) -> Iterator[TextsProgress]:
        """Show a bar of encoded texts with rate and time left (not if `total` is None)."""
        with _bar(label) as progress:
            task = progress.add_task(label, total=total, detail="")
            yield lambda count: progress.advance(task, count)

    @contextmanager
    def steps_progress(self, label: str) -> Iterator[StepsProgress]:
        """Show a bar of training steps with loss, dev MRR, rates and time left."""
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
    quiet = current_output().quiet
    screen = make_console(stderr=True, quiet=quiet)
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=screen,
        disable=quiet or not screen.is_terminal,
    )
