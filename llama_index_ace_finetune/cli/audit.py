"""`audit`: what train, dev and test have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import EXIT_REJECTED, execute
from llama_index_ace_finetune.cli.options import AsJson, Columns, Memories
from llama_index_ace_finetune.cli.verb import Verb


def audit(
    path: Annotated[Path, typer.Argument(help="A run folder, or a split.json.")],
    data: Annotated[Path | None, typer.Option("--data", help="The dataset; by default the run's own.")] = None,
    memories: Memories = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Count what train, dev and test share; exit 1 if there is leakage."""

    def command() -> int:
        from llama_index_ace_finetune.pipeline.audit import audit as audit_run

        found = audit_run(path, data, memories, columns=columns)
        emit(
            {"name": found.name, "passed": found.passed, "overlaps": found.overlaps},
            lambda screen: screen.print("\n".join(found.lines()), markup=False),
        )
        return 0 if found.passed else EXIT_REJECTED

    execute(command, as_json=as_json)


VERB = Verb(audit, ("ace-finetune audit my-run", "ace-finetune audit split.json --data my_suite.json"))
