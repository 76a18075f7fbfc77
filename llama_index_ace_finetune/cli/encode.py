"""`encode`: write the vectors of memories to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import (
    AsJson,
    Columns,
    Device,
    DocumentPrompt,
    Engine,
    Precision,
    QueryPrompt,
    RayAddress,
    Workers,
)
from llama_index_ace_finetune.cli.verb import Verb


def encode(
    memories: Annotated[str, typer.Option(help="Memories: a Parquet file, a folder of them, or any other data.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards; the same command resumes it.")],
    model: Annotated[str | None, typer.Option(help="Hub name or folder (default all-MiniLM-L6-v2).")] = None,
    columns: Columns = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Memories per shard, at most.")] = 50_000,
    backend: Annotated[
        Literal["torch", "onnx", "openvino", "auto"], typer.Option(help="What runs the model; auto: the fastest.")
    ] = "torch",
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    device: Device = None,
    precision: Precision = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Encode memories to Parquet shards, here or on a Ray cluster.

    `index` and `generate` read them with --shards. Finished shards are kept when the command is repeated.
    """

    def command() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
        from llama_index_ace_finetune.pipeline.encode import encode as write_shards
        from llama_index_ace_finetune.scale.engine import EngineSettings

        result = write_shards(
            memories,
            out,
            model=model or DEFAULT_BASE_MODEL,
            columns=columns,
            device=device,
            precision=precision or "auto",
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            backend=backend,
            engine=EngineSettings(engine=engine, ray_address=ray_address, workers=workers),
            shard_rows=shard_rows,
            events=ConsoleEvents(),
        )

        def human(screen: Console) -> None:
            kept = f", {result.kept} of them from before" if result.kept else ""
            left = f"; {result.left_out} rows left out" if result.left_out else ""
            screen.print(
                f"{result.memories} memories in {result.shards} shards in {result.path}{kept}{left}", markup=False
            )

        figures = {"memories": result.memories, "left_out": result.left_out, "shards": result.shards}
        emit({**figures, "kept": result.kept, "output": str(result.path)}, human)

    execute(command, as_json=as_json)


VERB = Verb(
    encode,
    (
        "ace-finetune encode --memories memories/ --model my-run/model --out vectors",
        "ace-finetune encode --memories memories/ --out vectors --engine ray --ray-address 10.0.0.1:6379",
    ),
)
