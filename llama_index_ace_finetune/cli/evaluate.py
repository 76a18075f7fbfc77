"""`evaluate`: a model, its base model, BM25 and more on unseen queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute, typed_command
from llama_index_ace_finetune.cli.options import (
    AsJson,
    BytesPerMemory,
    Columns,
    Data,
    Device,
    Memories,
    Precision,
    QueryMs,
    RequireGain,
    SparseEncoderName,
    Title,
)
from llama_index_ace_finetune.cli.summary import print_report, required_gain
from llama_index_ace_finetune.cli.verb import Verb


def evaluate(
    data: Data,
    model: Annotated[Path, typer.Option("--model", help="Folder of the tuned model.")],
    memories: Memories = None,
    columns: Columns = None,
    out: Annotated[Path, typer.Option(help="JSON file to write; an HTML page is written beside it.")] = Path(
        "report.json"
    ),
    max_queries: Annotated[int | None, typer.Option(help="Evaluate on a random sample of N queries.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Baseline (default: the model's own base model).")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="<model>", help="Also compare with this untuned model, such as a larger one; repeatable."),
    ] = None,
    trec: Annotated[
        list[Path] | None, typer.Option(metavar="<file>", help="Also compare with this TREC run file; repeatable.")
    ] = None,
    curve: Annotated[
        str | None, typer.Option(help="Also train on subsets of 100,300,1000 queries and plot a learning curve.")
    ] = None,
    run_files: Annotated[
        Path | None, typer.Option(metavar="<folder>", help="Write TREC run files and qrels into this folder.")
    ] = None,
    query_ms: QueryMs = None,
    bytes_per_memory: BytesPerMemory = None,
    sparse_encoder: SparseEncoderName = None,
    device: Device = None,
    precision: Precision = None,
    require_gain: RequireGain = False,
    title: Title = None,
    as_json: AsJson = False,
) -> None:
    """Compare models, BM25 and hybrids on queries they have not seen."""

    def command() -> int:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.evaluate import evaluate as evaluate_model
        from llama_index_ace_finetune.pipeline.learning_curve import read_sizes

        report = evaluate_model(
            data,
            model,
            memories=memories,
            columns=columns,
            out=out,
            run_files=run_files,
            max_queries=max_queries,
            base_model=base_model,
            also=also or (),
            runs=trec or (),
            curve=read_sizes(curve) if curve else (),
            query_ms=query_ms,
            bytes_per_memory=bytes_per_memory,
            sparse_encoder=sparse_encoder,
            device=device,
            precision=precision or "auto",
            command=typed_command(),
            title=title or "",
            events=ConsoleEvents(),
        ).report
        emit(report, lambda screen: print_report(report, out.with_suffix(".html"), screen))
        return required_gain(report) if require_gain else 0

    execute(command, as_json=as_json)


VERB = Verb(
    evaluate,
    (
        "ace-finetune evaluate --data my_suite.json --model my-model",
        "ace-finetune evaluate --data my_suite.json --model my-model --also BAAI/bge-base-en-v1.5 --curve 100,300",
    ),
)
