"""`feedback`: import feedback into a query log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb


def feedback(
    log: Annotated[Path, typer.Argument(help="A query log.")],
    file: Annotated[Path, typer.Argument(help="CSV or JSON Lines with query_id, node_id, value.")],
    source: Annotated[str, typer.Option(help="Who says so, if the rows do not name it.")] = "import",
    as_json: AsJson = False,
) -> None:
    """Import feedback into a query log."""

    def command() -> None:
        from llama_index_ace_finetune.production.import_feedback import import_feedback
        from llama_index_ace_finetune.production.log_settings import LogSettings
        from llama_index_ace_finetune.production.query_log import QueryLog

        QueryLog.open(log, read_only=True).close()  # a log is not created here
        with QueryLog.open(log, LogSettings(keep_days=None, max_bytes=None)) as opened:
            found = import_feedback(opened, file, source=source)
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(found.counts.items()))
        emit(
            {"counts": dict(found.counts), "left_out": found.examples},
            lambda screen: screen.print("\n".join([counts, *found.examples]), markup=False),
        )

    execute(command, as_json=as_json)


VERB = Verb(feedback, ("ace-finetune feedback queries.db judged.csv", "ace-finetune feedback queries.db clicks.jsonl"))
