"""`harvest`: data to train on from a query log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, Memories
from llama_index_ace_finetune.cli.verb import Verb


def harvest(
    log: Annotated[Path, typer.Argument(help="A query log.")],
    out: Annotated[Path, typer.Option(help="Data to write, such as data.jsonl.")],
    run: Annotated[Path | None, typer.Option(help="The run that was served.")] = None,
    memories: Memories = None,
    min_uses: Annotated[int, typer.Option(help="Uses that must agree.")] = 2,
    min_use_rate: Annotated[float, typer.Option(help="Lowest rate of use, corrected for rank.")] = 0.5,
    position_bias: Annotated[float, typer.Option(help="Rank r is seen with probability r^-BIAS; 0 is off.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Make training data of the feedback in a query log."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.harvest import HarvestSettings, describe_counts
        from llama_index_ace_finetune.pipeline.harvest import harvest as harvest_log

        settings = HarvestSettings(min_uses=min_uses, min_use_rate=min_use_rate, position_bias=position_bias)
        found = harvest_log(log, out, run=run, memories=memories, settings=settings)

        def human(screen: Console) -> None:
            lines = [*describe_counts(found.report["counts"]), f"written: {found.path}, {found.memories}"]
            screen.print("\n".join(lines), markup=False)
            screen.print(f"next: ace-finetune run --data {found.path} --memories {found.memories}", markup=False)

        emit({"data": str(found.path), "memories": str(found.memories), **found.report}, human)

    execute(command, as_json=as_json)


VERB = Verb(
    harvest,
    (
        "ace-finetune harvest queries.db --run my-run --out data.jsonl",
        "ace-finetune harvest queries.db --memories my_inventory.json --out data.jsonl --min-uses 3",
    ),
)
