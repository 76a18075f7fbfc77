"""`report`: the verdict and the table of a run again."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, RequireGain, Title
from llama_index_ace_finetune.cli.summary import print_report, required_gain
from llama_index_ace_finetune.cli.verb import Verb
from llama_index_ace_finetune.errors import AceFinetuneError


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a report.json.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    require_gain: RequireGain = False,
    title: Title = None,
    table: Annotated[
        Path | None, typer.Option(metavar="<file>", help="Write the table of systems to this .csv or .tex file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run's verdict and table, and write its HTML report again."""

    def command() -> int:
        return show_report(run_folder, open_page=open_page, require_gain=require_gain, title=title, table=table)

    execute(command, as_json=as_json)


def show_report(
    path: Path,
    *,
    open_page: bool = False,
    require_gain: bool = False,
    title: str | None = None,
    table: Path | None = None,
) -> int:
    """Print table and verdict, write the page again, and open it if asked to; return the exit code.

    Raises:
        AceFinetuneError: as `report` of the pipeline, or if no browser can be started.
    """
    from llama_index_ace_finetune.pipeline.report import refuse_corrupt_report
    from llama_index_ace_finetune.pipeline.report import report as read_run_report

    found = read_run_report(path, title=title, table=table)
    with refuse_corrupt_report(found.file):
        emit(found.report, lambda screen: print_report(found.report, found.page, screen))
    if open_page and not webbrowser.open(found.page.resolve().as_uri()):
        raise AceFinetuneError(f"No browser could be started; open {str(found.page)!r} yourself.")
    return required_gain(found.report) if require_gain else 0


VERB = Verb(report, ("ace-finetune report my-run --open", "ace-finetune report my-run --require-gain"))
