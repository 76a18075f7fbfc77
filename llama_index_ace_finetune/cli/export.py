"""`export`: a model for serving without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, DevData
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.encoders.exports.record import ExportRecord


def export(
    path: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    backend: Annotated[Literal["onnx", "openvino"], typer.Option(help="Runtime to export for.")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights (onnx only).")] = False,
    max_loss: Annotated[float, typer.Option(help="Maximum decrease of dev MRR@10, absolute.")] = 0.005,
    training_data: DevData = None,
    as_json: AsJson = False,
) -> None:
    """Export the model for serving without torch, if dev accuracy holds."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.export import export as export_model

        record = export_model(path, backend=backend, int8=int8, max_loss=max_loss, training_data=training_data)
        content = record.to_dict()
        content["dev"] = {**asdict(record.dev), "loss": record.dev.loss} if record.dev else None
        emit(content, lambda screen: screen.print(_table(record)))

    execute(command, as_json=as_json)


def _table(record: ExportRecord) -> Table:
    from llama_index_ace_finetune.pipeline.export import describe_export

    dev, times = record.dev, record.query_milliseconds or {}
    table = Table(header_style="bold")
    for column in ("", "dev MRR@10", "against torch", "one query, ms"):
        table.add_column(column, justify="left" if not column else "right")
    if dev:
        table.add_row("torch, float32", f"{dev.torch:.4f}", "", f"{times.get('torch', 0):.1f}")
        name = describe_export(record)
        table.add_row(name, f"{dev.export:.4f}", f"{dev.export - dev.torch:+.4f}", f"{times.get('export', 0):.1f}")
        table.add_row(f"{name}, memories in torch", f"{dev.mixed:.4f}", f"{dev.mixed - dev.torch:+.4f}", "")
    return table


VERB = Verb(export, ("ace-finetune export my-run --backend onnx --int8",))
