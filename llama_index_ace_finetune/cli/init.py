"""`init`: a file with every setting of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.verb import Verb


def init(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("ace-finetune.yaml"),
    data: Annotated[str, typer.Option(help="Value of data in the file.")] = "my_suite.json",
    run_folder: Annotated[str, typer.Option("--run", help="Value of out in the file: the run folder.")] = "my-run",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a file with every setting of a run, for `run --config`."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.config_file import write_config

        write_config(out, data=data, run=run_folder, force=force)
        emit(
            {"config": str(out)},
            lambda screen: screen.print(
                f"{out} is written; set data and out in it, then: ace-finetune run --config {out}", markup=False
            ),
        )

    execute(command, as_json=as_json)


VERB = Verb(init, ("ace-finetune init --data my_suite.json --run my-run",))
