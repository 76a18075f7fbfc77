"""`log`: what a query log holds, and its export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb


def log(
    path: Annotated[Path, typer.Argument(metavar="LOG", help="A query log.")],
    out: Annotated[Path | None, typer.Option(help="Export to this .jsonl or .parquet file.")] = None,
    ubi: Annotated[bool, typer.Option("--ubi", help="Export in the schema of User Behavior Insights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the records of a query log, or export them."""

    def command() -> None:
        from llama_index_ace_finetune.production.export_log import export_log
        from llama_index_ace_finetune.production.query_log import QueryLog

        with QueryLog.open(path, read_only=True) as opened:
            queries, given = opened.counts()
            written = [str(file) for file in export_log(opened, out, ubi=ubi)] if out else []
        lines = [f"{queries} queries, {given} feedback records", *(f"written: {file}" for file in written)]
        emit(
            {"queries": queries, "feedback": given, "written": written},
            lambda screen: screen.print("\n".join(lines), markup=False),
        )

    execute(command, as_json=as_json)


VERB = Verb(log, ("ace-finetune log queries.db", "ace-finetune log queries.db --out queries.jsonl --ubi"))
