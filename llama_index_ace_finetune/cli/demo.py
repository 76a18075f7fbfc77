"""`demo`: all stages on the dataset that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.execute import execute, typed_command
from llama_index_ace_finetune.cli.options import AsJson
from llama_index_ace_finetune.cli.run import run_and_show
from llama_index_ace_finetune.cli.summary import print_next_steps
from llama_index_ace_finetune.cli.verb import Verb


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo-run"),
    as_json: AsJson = False,
) -> None:
    """Run all stages on the playbook that comes with the package."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.demo import demo_suite
        from llama_index_ace_finetune.pipeline.settings import RunSettings

        result = run_and_show(RunSettings(data=demo_suite(), out=out, command=typed_command()))
        print_next_steps(result.report, out)

    execute(command, as_json=as_json)


VERB = Verb(demo, ("ace-finetune demo --out demo-run",))
