"""`compare-live`: two systems in production, from a query log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from llama_index_ace_finetune.cli.console import emit, table_for
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb
from llama_index_ace_finetune.errors import AceFinetuneError

if TYPE_CHECKING:
    from llama_index_ace_finetune.production.live_comparison import LiveComparison


def compare_live(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Query log.")],
    name: Annotated[str | None, typer.Option(help="Comparison, if the log has several.")] = None,
    alpha: Annotated[float, typer.Option(help="Probability that the interval ever misses the true value.")] = 0.05,
    plot: Annotated[Path | None, typer.Option(help="SVG file to write: the interval over time.")] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Write the differing results of a shadow comparison to this file, to be judged.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder, for the texts in the --judge file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the two systems of an interleaved, split or shadow comparison by the feedback on their results."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline import compare_live as pipeline

        if run is not None and judge is None:
            raise AceFinetuneError("--run only adds texts to the file of --judge; give --judge FILE too.")
        found = pipeline.compare_live(log, name=name, alpha=alpha, plot=plot)
        rows = None if judge is None else pipeline.write_judge_file(log, judge, name=found.name, run=run)

        def show(screen: Console) -> None:
            _print(found, screen)
            if rows is not None:
                screen.print(f"{rows:,} results to judge are in {judge}", markup=False)

        emit({**asdict(found), "judge_rows": rows}, show)

    execute(command, as_json=as_json)


def _print(found: LiveComparison, screen: Console) -> None:
    screen.print(found.sentence, markup=False)
    if found.differing is not None:
        overlap = "" if found.overlap is None else f", with a mean rank-biased overlap of {found.overlap:.2f}"
        screen.print(f"Rankings differ on {found.differing:,} queries{overlap}.")
    if found.slices:
        table = table_for(screen)
        for column in ("slice", "queries", "with credit", "credit", "interval"):
            table.add_column(column, justify="left" if column == "slice" else "right", overflow="fold")
        for one in found.slices:
            credit = one.credit
            table.add_row(
                escape(f"{one.dimension}: {one.name}"),
                f"{credit.queries:,}",
                f"{credit.decided:,}",
                f"{credit.mean:+.3f}",
                f"{credit.low:+.3f} to {credit.high:+.3f}",
            )
        screen.print(table)
    for warning in found.warnings:
        screen.print(f"[yellow]note:[/] {escape(warning)}")


VERB = Verb(
    compare_live,
    ("ace-finetune compare-live queries.db", "ace-finetune compare-live queries.db --judge to_judge.csv --run my-run"),
)
