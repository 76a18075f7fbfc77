"""The verbs that show something: inspect, report, search, compare, audit, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, Columns, Data, Memories, RequireGain


def inspect(data: Data, memories: Memories = None, columns: Columns = None, as_json: AsJson = False) -> None:
    """Show what data hold: sizes, duplicates, ambiguity, BM25's hits."""

    def command() -> None:
        from llama_index_ace_finetune.commands.inspect import print_statistics

        print_statistics(data, memories, columns)

    execute(command, as_json=as_json)


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a report.json.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    require_gain: RequireGain = False,
    as_json: AsJson = False,
) -> None:
    """Print a run's verdict and table, and write its page anew."""

    def command() -> int:
        from llama_index_ace_finetune.commands.report import show_report

        return show_report(run_folder, open_page=open_page, require_gain=require_gain)

    execute(command, as_json=as_json)


def search(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(help="Results at most.")] = 5,
    mode: Annotated[Literal["hybrid", "dense", "sparse"], typer.Option(help="How to search.")] = "hybrid",
    threshold: Annotated[float | None, typer.Option(help="Lowest cosine of a dense hit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search the memories of a run."""

    def command() -> None:
        from llama_index_ace_finetune.commands.search import print_hits
        from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

        options: dict[str, Any] = {"similarity_top_k": limit, "mode": mode, "threshold": threshold}
        retriever = FineTunedHybridRetriever.from_run(run_folder, **options)
        try:
            print_hits(retriever.retrieve(query))
        finally:
            retriever.close()

    execute(command, as_json=as_json)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or report.json files; each against the first.")],
    system: Annotated[
        str | None, typer.Option(help="Compare this system; what each run's dev chose by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs query by query; several seeds give a deviation."""

    def command() -> None:
        from llama_index_ace_finetune.commands.compare import print_comparison

        print_comparison(runs, system=system)

    execute(command, as_json=as_json)


def audit(
    path: Annotated[Path, typer.Argument(help="A run folder, or a split.json.")],
    data: Annotated[Path | None, typer.Option("--data", help="The data; the run's own by default.")] = None,
    memories: Memories = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Count what train, dev and test share; exit 1 where they must not."""

    def command() -> int:
        from llama_index_ace_finetune.commands.audit import print_audit

        return print_audit(path, data, memories, columns)

    execute(command, as_json=as_json)


def doctor(
    folder: Annotated[Path, typer.Argument(help="With --clean: where to look, with all folders in it.")] = Path(),
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what killed commands left; --resume can then not continue them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show versions, hardware and backends, and what is missing."""

    def command() -> int:
        if clean:
            from llama_index_ace_finetune.commands.clean import print_cleaned

            print_cleaned(folder)
            return 0
        from llama_index_ace_finetune.commands.doctor import print_checkup

        return print_checkup()

    execute(command, as_json=as_json)
