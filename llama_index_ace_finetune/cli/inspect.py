"""`inspect`: what a dataset holds."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, Columns, Data, Memories
from llama_index_ace_finetune.cli.verb import Verb


def inspect(data: Data, memories: Memories = None, columns: Columns = None, as_json: AsJson = False) -> None:
    """Show dataset statistics: sizes, duplicates, ambiguity, BM25's hits."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.inspect import inspect as inspect_data

        found = inspect_data(data, memories, columns=columns)

        def human(screen: Console) -> None:
            screen.print("\n".join(found.statistics.lines()), markup=False)
            if found.rejection:
                screen.print(f"run               would refuse these data: {found.rejection}", markup=False)

        emit({**asdict(found.statistics), "run_would_refuse": found.rejection}, human)

    execute(command, as_json=as_json)


VERB = Verb(
    inspect,
    (
        "ace-finetune inspect --data my_suite.json",
        "ace-finetune inspect --data my_suite.json --memories my_inventory.json --json",
    ),
)
