"""`tune`: search training settings on dev."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import (
    AsJson,
    BaseModel,
    Columns,
    Data,
    Device,
    Memories,
    NumNegatives,
    Precision,
    Seed,
)
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.training.config import TrainingConfig


def tune(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the study; the same command resumes it.")] = Path("tuning"),
    memories: Memories = None,
    columns: Columns = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all, those of earlier commands included.")] = 20,
    timeout: Annotated[float | None, typer.Option(help="Start no further trial after that many minutes.")] = None,
    budget: Annotated[float, typer.Option(help="Maximum minutes per trial.")] = 5.0,
    base_model: BaseModel = None,
    num_negatives: NumNegatives = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Search training settings on the dev queries, and write a configuration for `run`.

    Start the same command in several terminals to share the trials. The test queries are not read.
    """

    def command() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.tune import PLOT
        from llama_index_ace_finetune.pipeline.tune import tune as search

        result = search(
            data,
            out,
            memories=memories,
            columns=columns,
            trials=trials,
            timeout_minutes=timeout,
            config=_config(base_model, budget, device, precision, seed),
            num_negatives=5 if num_negatives is None else num_negatives,
            events=ConsoleEvents(),
        )
        figures = f"{result.gain:+.3f} +- {result.error:.3f} MRR@10 on dev"

        def human(screen: Console) -> None:
            if result.improved:
                shown = ", ".join(f"{name} {value:.3g}" for name, value in result.chosen.items())
                screen.print(f"best of {len(result.trials)} trials: {shown}; {figures} over the default", markup=False)
            else:
                screen.print(
                    f"the default settings are kept: the best of {len(result.trials)} trials has {figures} over them, "
                    "within one standard error",
                    markup=False,
                )
            screen.print(f"plot: {out / PLOT}\nnext: ace-finetune run --config {result.config}", markup=False)

        emit(
            {
                "config": str(result.config),
                "chosen": result.chosen,
                "improved": result.improved,
                "gain": result.gain,
                "standard_error": result.error,
                "trials": len(result.trials),
            },
            human,
        )

    execute(command, as_json=as_json)


def _config(
    base_model: str | None, budget: float, device: str | None, precision: str | None, seed: int | None
) -> TrainingConfig:
    from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
    from llama_index_ace_finetune.training.config import TrainingConfig

    return TrainingConfig(
        base_model=base_model or DEFAULT_BASE_MODEL,
        budget_minutes=budget,
        device=device,
        precision=precision or "auto",  # type: ignore[arg-type]
        seed=seed or 0,
    )


VERB = Verb(
    tune,
    (
        "ace-finetune tune --data my_suite.json --out tuning --trials 20",
        "ace-finetune tune --data my_suite.json --out tuning --trials 60 --timeout 120 --budget 3",
    ),
)
