"""`compare`: runs side by side."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_ace_finetune.cli.console import emit, table_for
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.summary import interval_markup, measures_for
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.compare import RunComparison

_MEASURE = "MRR@10"


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or report.json files; each against the first.")],
    system: Annotated[str | None, typer.Option(help="System to compare (default: the one selected on dev).")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs query by query; with several seeds, report the standard deviation."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.compare import compare as compare_runs

        found = compare_runs(runs, system=system)
        emit(asdict(found), lambda screen: _print(found, screen))

    execute(command, as_json=as_json)


def _print(found: RunComparison, screen: Console) -> None:
    screen.print(f"{found.queries} shared test queries")
    screen.print(_table(found, screen))
    if spread := found.spread.get(_MEASURE):
        varied = "; ".join(f"{stage} {', '.join(map(str, seeds))}" for stage, seeds in found.varied.items())
        note = f" (seeds of {varied})" if varied else ""
        screen.print(
            f"{_MEASURE} over {spread['seeds']} runs{note}: mean {spread['mean']:.3f}, s.d. {spread['deviation']:.3f}"
        )
    for warning in found.warnings:
        screen.print(f"[yellow]note:[/] {escape(warning)}")


def _table(found: RunComparison, screen: Console) -> Table:
    from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

    table = table_for(screen)
    table.add_column("run", overflow="fold")
    table.add_column("system", overflow="fold")
    measures = measures_for(screen)
    for name in measures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("against first, 95%", justify="right", no_wrap=True)
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    for run in found.runs:
        difference = found.differences_to_first[_MEASURE].get(run["run"])
        # No run was selected beforehand, so the mark follows the p-value that is adjusted for their number.
        adjusted = difference and replace(PairedDifference.from_dict(difference), p_value=difference["p_holm"])
        table.add_row(
            escape(run["run"]),
            escape(run["system"]),
            *(f"{run['means'][name]:.3f}" for name in measures.values()),
            interval_markup(adjusted) if adjusted else "reference",
            f"{adjusted.p_value:.3f}" if adjusted else "",
        )
    return table


VERB = Verb(compare, ("ace-finetune compare my-run other-run",))
