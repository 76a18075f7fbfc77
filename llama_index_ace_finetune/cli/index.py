"""`index`: embed memories for serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, Columns, Data, Device, Memories, Precision, Shards
from llama_index_ace_finetune.cli.verb import Verb


def index(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder of the tuned model.")],
    memories: Memories = None,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the index; by default beside the model.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an index that is there.")] = False,
    device: Device = None,
    precision: Precision = None,
    shards: Shards = None,
    as_json: AsJson = False,
) -> None:
    """Embed memories with the tuned model and its base, for serving."""

    def command() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.index import index as build

        result = build(
            data,
            model,
            out,
            memories=memories,
            columns=columns,
            replace=replace,
            device=device,
            precision=precision or "auto",
            shards=shards or (),
            events=ConsoleEvents(),
        )
        emit(
            {"memories": result.memories, "index": str(result.path)},
            lambda screen: screen.print(f"{result.memories} memories in {result.path}", markup=False),
        )

    execute(command, as_json=as_json)


VERB = Verb(
    index,
    (
        "ace-finetune index --data my_suite.json --model my-model --out my-index",
        "ace-finetune index --data my_suite.json --model my-model --shards vectors --out my-index",
    ),
)
