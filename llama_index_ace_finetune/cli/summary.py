"""The table and the verdict that end an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_ace_finetune.cli.console import console, is_wide, status_console, table_for
from llama_index_ace_finetune.cli.execute import EXIT_REJECTED

if TYPE_CHECKING:
    from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

_MEASURES = (("R@1", "Success@1"), ("R@5", "Success@5"), ("MRR@10", "MRR@10"))


def measures_for(screen: Console) -> dict[str, str]:
    """Return the measures that a table has room for: name in the table to name in the report."""
    return dict(_MEASURES if is_wide(screen) else _MEASURES[-1:])


def print_summary(report: dict[str, Any], screen: Console) -> None:
    """Print the systems with their differences to the base model, then the verdict and its warnings."""
    from llama_index_ace_finetune.evaluation.report.plain_sentence import plain_sentence

    metadata = report["metadata"]
    screen.print(
        f"\n{metadata['total_queries_evaluated']} held-out queries over {metadata['corpus_size']} distinct memories"
    )
    chosen = report["verdict"]["system"]["name"]
    screen.print(_table_of(report["systems"], screen, label=_label, chosen=chosen))
    _print_known(report, screen)
    _print_folds(report, screen)
    verdict = report["verdict"]
    screen.print(plain_sentence(report), markup=False)
    color = "green" if verdict["confirmed"] else "yellow"
    screen.print(f"[bold {color}]{escape(verdict['sentence'])}[/]")
    for warning in verdict["warnings"]:
        screen.print(f"[yellow]note:[/] {escape(warning)}")
    if report["learning_curve"]:
        screen.print(report["learning_curve"]["sentence"], markup=False)


def _table_of(
    systems: Sequence[Mapping[str, Any]],
    screen: Console,
    *,
    label: Callable[[Mapping[str, Any]], str],
    chosen: str = "",
) -> Table:
    """Return the means of systems and their differences to the base model, the chosen one in bold."""
    from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

    table = table_for(screen)
    table.add_column("system", overflow="fold")
    measures = measures_for(screen)
    for name in measures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MRR@10 against base, 95%", justify="right", no_wrap=True)
    for system in systems:
        difference = system["difference_to_base"].get("MRR@10")
        table.add_row(
            escape(label(system)),
            *(f"{system['means'][name]:.3f}" for name in measures.values()),
            interval_markup(PairedDifference.from_dict(difference)) if difference else "reference",
            style="bold" if system["name"] == chosen else "",
        )
    return table


def _print_known(report: dict[str, Any], screen: Console) -> None:
    """Print queries about new and about known memories side by side; nothing if the split held out none of these."""
    known = report.get("known")
    if not known:
        return
    table = table_for(screen)
    table.add_column("MRR@10, 95%", overflow="fold")
    for part, about in (("new", "queries about new memories"), ("known", "new queries about known memories")):
        table.add_column(f"{known['queries'][part]} {about}", justify="right")
    chosen = report["verdict"]["system"]["name"]
    for system in known["systems"]:
        cells = (system[part]["MRR@10"] for part in ("new", "known"))
        table.add_row(
            escape(system["name"]),
            *(f"{one['mean']:.3f}  \\[{one['low']:.3f}, {one['high']:.3f}]" for one in cells),
            style="bold" if system["name"] == chosen else "",
        )
    screen.print(table)


def _print_folds(report: dict[str, Any], screen: Console) -> None:
    """Print the results over the test queries of all folds; nothing without folds."""
    folds = report.get("folds")
    if not folds:
        return
    screen.print(f"\nall {folds['queries']} queries, in {folds['k']} folds")
    screen.print(_table_of(folds["systems"], screen, label=lambda system: str(system["name"])))


def print_report(report: dict[str, Any], page: Path, screen: Console) -> None:
    """`print_summary`, and the path of the page."""
    print_summary(report, screen)
    screen.print(f"report  {page}", markup=False)


def print_next_steps(report: dict[str, Any], run: Path) -> None:
    """Print what to do after a run; --quiet leaves it out."""
    from llama_index_ace_finetune.evaluation.report.next_steps import next_steps

    screen = status_console()
    for number, step in enumerate(next_steps(report, str(run))):
        screen.print(f"{'next' if number == 0 else '':<7} {step.purpose}", markup=False)
        if step.command:
            screen.print(f"{'':<9} {step.command}", markup=False)


def required_gain(report: dict[str, Any]) -> int:
    """Return the exit code for --require-gain, and print why it is 1.

    It is 0 if the tuned model is served and test confirms its gain.
    """
    from llama_index_ace_finetune.evaluation.report.next_steps import why_not_confirmed

    why = why_not_confirmed(report)
    if not why:
        return 0
    console(stderr=True).print(f"--require-gain: exit {EXIT_REJECTED}, since {why}", markup=False)
    return EXIT_REJECTED


def _label(system: Mapping[str, Any]) -> str:
    if not system["weights"]:
        return str(system["name"])
    dense, lexical = system["weights"]
    return f"{system['name']} ({dense:.2g} : {lexical:.2g})"


def interval_markup(difference: PairedDifference) -> str:
    """Return a difference with its interval: green if it is a significant gain, red if it is a significant loss."""
    color = "green" if difference.is_gain else "red" if difference.is_loss else "default"
    return f"[{color}]{difference.mean:+.3f}  \\[{difference.low:+.3f}, {difference.high:+.3f}][/]"
