"""`vectors`: what shorter and smaller vectors cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from llama_index_ace_finetune.cli.console import emit, table_for
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, DevData
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.vector_formats import VectorComparison


def vectors(
    path: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    dimensions: Annotated[
        str | None,
        typer.Option(help="Shorter lengths to try, such as 256,128; by default those that the model was trained for."),
    ] = None,
    training_data: DevData = None,
    as_json: AsJson = False,
) -> None:
    """Show what shorter, 8-bit and binary vectors cost on dev."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.vector_formats import compare_vector_formats, read_dimensions

        lengths = read_dimensions(dimensions) if dimensions is not None else None
        found = compare_vector_formats(path, lengths, training_data=training_data)
        emit(asdict(found), lambda screen: screen.print(_table(found, screen)))

    execute(command, as_json=as_json)


def _table(found: VectorComparison, screen: Console) -> Table:
    table = table_for(screen)
    table.caption, table.caption_justify = f"{found.queries} dev queries", "left"
    for column in ("dimensions", "held as", "bytes", "dev MRR@10", "against the first"):
        table.add_column(column, justify="left" if column == "held as" else "right", no_wrap=True)
    first = found.forms[0]
    for form in found.forms:
        change = f"{form.mrr - first.mrr:+.4f}" if form is not first else ""
        table.add_row(str(form.dimension), form.held_as, f"{form.bytes:,}", f"{form.mrr:.4f}", change)
    return table


VERB = Verb(vectors, ("ace-finetune vectors my-run --dimensions 256,128",))
