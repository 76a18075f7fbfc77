"""`dashboard`: a query log as one HTML page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb


def dashboard(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Query log.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that is served.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("dashboard.html"),
    last: Annotated[int, typer.Option(help="Number of recent queries.")] = 200,
    reference: Annotated[
        Literal["run", "log"], typer.Option(help="Compare with the dev queries of the run, or the first of the log.")
    ] = "run",
    cache: Annotated[Path | None, typer.Option(help="Folder for the vectors of the memories.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with the live comparison, drift, volumes and worst queries of a query log."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.dashboard import dashboard as write_dashboard

        made = write_dashboard(log, run, out, last=last, reference=reference, cache=cache)

        def show(screen: Console) -> None:
            for sentence in (made.watch.sentence, *(found.sentence for found in made.comparisons)):
                screen.print(sentence, markup=False)
            screen.print(f"The page is {made.page}", markup=False)

        emit({**asdict(made), "page": str(made.page)}, show)

    execute(command, as_json=as_json)


VERB = Verb(dashboard, ("ace-finetune dashboard queries.db my-run --out dashboard.html",))
