"""`watch`: whether a new training is due."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from llama_index_ace_finetune.cli.console import emit, table_for
from llama_index_ace_finetune.cli.execute import EXIT_REJECTED, execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.watch import Watch

EXIT_FAILING = 4


def watch(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Query log.")],
    run: Annotated[Path, typer.Option(help="Run folder that is served.")],
    last: Annotated[int, typer.Option(help="Number of recent queries.")] = 200,
    reference: Annotated[
        Literal["run", "log"], typer.Option(help="Compare with the dev queries of the run, or the first of the log.")
    ] = "run",
    alpha: Annotated[float, typer.Option(help="Probability of a false alarm.")] = 0.05,
    cache: Annotated[Path | None, typer.Option(help="Folder for the vectors of the memories.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the queries have drifted and a new training is due; exit 1 if so, and 4 if a fallback serves."""

    def command() -> int:
        from llama_index_ace_finetune.pipeline.watch import watch as watch_log

        found = watch_log(log, run=run, last=last, reference=reference, alpha=alpha, cache=cache)
        emit(asdict(found), lambda screen: _print(found, screen))
        return EXIT_REJECTED if found.due else EXIT_FAILING if found.failing else 0

    execute(command, as_json=as_json)


def _print(found: Watch, screen: Console) -> None:
    screen.print(found.sentence, markup=False)
    table = table_for(screen)
    for column in ("signal", "recent", "reference", "p"):
        table.add_column(column, justify="left" if column == "signal" else "right")
    for signal in found.drift.signals if found.drift else ():
        table.add_row(signal.name, f"{signal.value:.3f}", f"{signal.reference:.3f}", f"{signal.p_value:.3f}")
    table.add_row("fallbacks", f"{found.fallbacks:.3f}", "", "")
    for name, milliseconds in found.latency.items():
        table.add_row(f"latency {name}", f"{milliseconds:.0f} ms", "", "")
    screen.print(table)
    for note in found.notes:
        screen.print(f"[yellow]note:[/] {escape(note)}")


VERB = Verb(watch, ("ace-finetune watch queries.db --run my-run",))
