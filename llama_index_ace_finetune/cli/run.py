"""The verbs that do everything: `run`, `demo`, and `init` for a file of settings."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.flags import mining_flags, training_flags
from llama_index_ace_finetune.cli.options import (
    AbsoluteMargin,
    AsJson,
    BaseModel,
    BatchSize,
    Bm25,
    Budget,
    Columns,
    Dense,
    Device,
    Epochs,
    KeepIndex,
    LearningRate,
    MaxScore,
    Memories,
    MinDifficulty,
    NearerAnswer,
    NoRelativeMargin,
    NumNegatives,
    Precision,
    RangeMax,
    RangeMin,
    RelativeMargin,
    Relax,
    RequireGain,
    Retention,
    SamplingStrategyName,
    Seed,
    SkipCategories,
    TeacherModel,
    TrainingMode,
)
from llama_index_ace_finetune.utils.redact import without_passwords


def _needed(context: typer.Context, value: Path | None) -> Path | None:
    if value is None and not context.params.get("config") and not context.resilient_parsing:
        raise typer.BadParameter("it is missing; give it here, or in a file with --config.")
    return value


def run(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(is_eager=True, help="YAML file with all settings, as `init` writes; options win.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", callback=_needed, help="Queries with known answers: a file or folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=_needed, help="Run folder.")] = None,
    memories: Memories = None,
    columns: Columns = None,
    base_model: BaseModel = None,
    num_negatives: NumNegatives = None,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    mode: TrainingMode = None,
    keep_index: KeepIndex = None,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    retention: Retention = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with an estimate of the time; write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where it was broken off; in a finished run, redo what changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Do everything again, and replace a run.")] = False,
    require_gain: RequireGain = False,
    as_json: AsJson = False,
    range_max: RangeMax = None,
    range_min: RangeMin = None,
    relative_margin: RelativeMargin = None,
    no_relative_margin: NoRelativeMargin = False,
    absolute_margin: AbsoluteMargin = None,
    max_score: MaxScore = None,
    nearer_answer: NearerAnswer = None,
    teacher: TeacherModel = None,
    relax: Relax = False,
    sampling_strategy: SamplingStrategyName = None,
    dense: Dense = None,
    bm25: Bm25 = None,
) -> None:
    """Do everything: read, split, mine, train, evaluate, index.

    Exits 0 where the base model is kept, too: that is an answer, not an error. See --require-gain.
    """
    # Most options are only handed on: by name, to the settings that they mean.
    options = dict(context.params)

    def command() -> int:
        from llama_index_ace_finetune.pipeline.config_file import run_settings
        from llama_index_ace_finetune.pipeline.plan import print_plan
        from llama_index_ace_finetune.pipeline.run import run_pipeline
        from llama_index_ace_finetune.pipeline.summary import required_gain

        settings = run_settings(config, _given(options), resume=resume, force=force, command=_typed())
        if dry_run:
            print_plan(settings)
            return 0
        report = run_pipeline(settings)
        return required_gain(report) if require_gain else 0

    execute(command, as_json=as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    names = ("data", "out", "memories", "columns", "num_negatives", "min_difficulty", "skip_categories")
    top = {name: options[name] for name in names if options[name] not in (None, [], ())}
    seed = {"seed": options["seed"]} if options["seed"] is not None else {}
    return {**top, "split": seed, "mining": mining_flags(options), "training": training_flags(options)}


def _typed() -> str:
    return without_passwords(shlex.join(["ace-finetune", *sys.argv[1:]]))


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo-run"),
    as_json: AsJson = False,
) -> None:
    """Do all that `run` does, on the playbook that comes with it."""

    def command() -> None:
        from llama_index_ace_finetune.commands.demo import run_demo

        run_demo(out, command=_typed())

    execute(command, as_json=as_json)


def init(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("ace-finetune.yaml"),
    data: Annotated[str, typer.Option(help="Data to name in it.")] = "my_suite.json",
    run_folder: Annotated[str, typer.Option("--run", help="Run folder to name in it.")] = "my-run",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a file with every setting of a run, for `run --config`."""

    def command() -> None:
        from llama_index_ace_finetune.commands.init import write_config

        write_config(out, data=data, out=run_folder, force=force)

    execute(command, as_json=as_json)
