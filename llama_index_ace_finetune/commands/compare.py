"""Print runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_ace_finetune.commands.report import report_file
from llama_index_ace_finetune.evaluation.evaluate import MEASURE
from llama_index_ace_finetune.evaluation.report.compare_runs import compare_runs
from llama_index_ace_finetune.pipeline.summary import interval_markup, measures_for
from llama_index_ace_finetune.utils.console import show, table_for


def print_comparison(paths: Sequence[Path], *, system: str | None = None) -> None:
    """Compare what the runs serve on the queries that they share, each with the first."""
    found = compare_runs({str(path): report_file(path) for path in paths}, system=system)
    show(found, lambda screen: _print(found, screen))


def _print(found: dict[str, Any], screen: Console) -> None:
    screen.print(f"{found['queries']} shared test queries")
    screen.print(_table(found, screen))
    spread = found["spread"][MEASURE]
    screen.print(f"{MEASURE} over {spread['seeds']} runs: mean {spread['mean']:.3f}, s.d. {spread['deviation']:.3f}")
    for warning in found["warnings"]:
        screen.print(f"[yellow]note:[/] {escape(warning)}")


def _table(found: dict[str, Any], screen: Console) -> Table:
    table = table_for(screen)
    table.add_column("run", overflow="fold")
    table.add_column("system", overflow="fold")
    measures = measures_for(screen)
    for name in measures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("against first, 95 %", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    for run in found["runs"]:
        difference = found["differences_to_first"][MEASURE].get(run["run"])
        table.add_row(
            escape(run["run"]),
            escape(run["system"]),
            *(f"{run['means'][name]:.3f}" for name in measures.values()),
            interval_markup(difference) if difference else "reference",
            f"{difference['p_holm']:.3f}" if difference else "",
        )
    return table
