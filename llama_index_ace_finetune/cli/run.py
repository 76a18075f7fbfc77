"""`run`: all stages in one folder."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit, table_for
from llama_index_ace_finetune.cli.execute import execute, typed_command
from llama_index_ace_finetune.cli.flags import mining_flags, training_flags
from llama_index_ace_finetune.cli.options import (
    AbsoluteMargin,
    Also,
    AsJson,
    BaseModels,
    BatchSize,
    Bm25,
    Budget,
    BytesPerMemory,
    Columns,
    Dense,
    Device,
    DocumentPrompt,
    Epochs,
    KeepIndex,
    LateInteractionWeight,
    LearningRate,
    LlmKeyEnv,
    LlmModel,
    LlmUrl,
    MaxScore,
    Memories,
    MinDifficulty,
    NearerAnswer,
    NoRelativeMargin,
    NumNegatives,
    Precision,
    Processes,
    QueryMs,
    QueryPrompt,
    RangeMax,
    RangeMin,
    RefitOn,
    RelativeMargin,
    Relax,
    Remine,
    RequireGain,
    Retention,
    SamplingStrategyName,
    Seed,
    SkipCategories,
    SparseEncoderName,
    SplitSeed,
    Tasks,
    TeacherModel,
    Title,
    TrainingMode,
)
from llama_index_ace_finetune.cli.summary import print_next_steps, print_summary, required_gain
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.plan import RunPlan
    from llama_index_ace_finetune.pipeline.run import RunResult
    from llama_index_ace_finetune.pipeline.settings import RunSettings


def _needed(context: typer.Context, value: Path | None) -> Path | None:
    if value is None and not context.params.get("config") and not context.resilient_parsing:
        raise typer.BadParameter("it is missing; give it here, or in a file with --config.")
    return value


def run(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, help="YAML file of settings, as `init` writes it; options override it."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Queries with known answers: a file or folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=_needed, help="Run folder.")] = None,
    memories: Memories = None,
    columns: Columns = None,
    synthesize: Annotated[
        int | None,
        typer.Option(
            metavar="<n>", help="Write N synthetic queries to train on; with --memories only, --data is not needed."
        ),
    ] = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    base_model: BaseModels = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    num_negatives: NumNegatives = None,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    mode: TrainingMode = None,
    keep_index: KeepIndex = None,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    remine: Remine = None,
    refit: RefitOn = None,
    late_interaction_weight: LateInteractionWeight = None,
    retention: Retention = None,
    also: Also = None,
    tasks: Tasks = None,
    query_ms: QueryMs = None,
    bytes_per_memory: BytesPerMemory = None,
    sparse_encoder: SparseEncoderName = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="<k>",
            help="Test every query once, in K folds that share the budget: for fewer than 300 queries.",
        ),
    ] = None,
    device: Device = None,
    precision: Precision = None,
    nproc: Processes = None,
    seed: Seed = None,
    split_seed: SplitSeed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with a time estimate; write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run; in a finished run, run what changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run all stages again, and replace a run.")] = False,
    require_gain: RequireGain = False,
    title: Title = None,
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
    """Run all stages: read, split, mine, train, evaluate, index.

    Exits 0 also if the base model is kept: that is a result, not an error. See --require-gain.
    """
    # Most options are only passed on: by name, to the settings.
    options = dict(context.params)

    def command() -> int:
        from llama_index_ace_finetune.pipeline.config_file import run_settings
        from llama_index_ace_finetune.pipeline.launch import launch_ranks
        from llama_index_ace_finetune.pipeline.run import run as run_pipeline
        from llama_index_ace_finetune.training.ranks import launched_rank

        settings = run_settings(config, _given(options), resume=resume, force=force, command=typed_command())
        if dry_run:
            return _show_plan(settings)
        rank = launched_rank()
        if rank is None and nproc and nproc > 1:
            return launch_ranks(sys.argv[1:], processes=nproc)
        if rank:  # rank 0 shows the result
            run_pipeline(settings)
            return 0
        result = run_and_show(settings)
        print_next_steps(result.report, settings.out)
        return required_gain(result.report) if require_gain else 0

    execute(command, as_json=as_json)


def run_and_show(settings: RunSettings) -> RunResult:
    """Run the pipeline with messages and progress bars, and print its result."""
    from llama_index_ace_finetune.cli.progress import ConsoleEvents
    from llama_index_ace_finetune.pipeline.run import run as run_pipeline

    result = run_pipeline(settings, events=ConsoleEvents())
    folder, seconds = result.folder, result.seconds
    paths = {"model": folder.model, "index": folder.index, "report": folder.report.with_suffix(".html")}

    def human(screen: Console) -> None:
        print_summary(result.report, screen)
        for name, path in paths.items():
            screen.print(f"{name:<7} {path}", markup=False)
        screen.print(f"{seconds:.0f} s in total", markup=False)

    facts = {
        "folder": str(folder.path),
        **{name: str(path) for name, path in paths.items()},
        "seconds": round(seconds, 1),
    }
    emit({**result.report, "run": facts}, human)
    return result


def _show_plan(settings: RunSettings) -> int:
    from llama_index_ace_finetune.pipeline.plan import plan

    found = plan(settings)
    content = asdict(found)
    del content["data"]
    emit(content, lambda screen: _print_plan(found, screen))
    return 0


def _print_plan(plan: RunPlan, screen: Console) -> None:
    for line in plan.data:
        screen.print(line, markup=False)
    table = table_for(screen)
    table.add_column("stage", no_wrap=True)
    table.add_column("what is done")
    table.add_column("about", justify="right", no_wrap=True)
    for stage in plan.stages:
        table.add_row(stage.stage, stage.does, _duration(stage.seconds))
    screen.print(table)
    screen.print(
        f"{plan.base_model} on {plan.device} in {plan.precision}: about {_duration(plan.seconds)} in total, "
        f"into {plan.out}; nothing was written",
        markup=False,
    )


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _given(options: dict[str, Any]) -> dict[str, Any]:
    names = (
        *("data", "out", "memories", "columns", "num_negatives", "min_difficulty", "skip_categories", "title"),
        *("query_ms", "bytes_per_memory", "sparse_encoder"),
        *("folds", "synthesize", "llm_url", "llm_model", "llm_key_env"),
    )
    top = {name: options[name] for name in names if options[name] not in (None, [], ())}
    seed = {"seed": options["split_seed"]} if options["split_seed"] is not None else {}
    return {**top, "split": seed, "mining": mining_flags(options), "training": training_flags(options)}


VERB = Verb(
    run,
    (
        "ace-finetune run --data my_suite.json --out my-run",
        "ace-finetune run --data my_suite.json --out my-run --budget 3 --dry-run",
        "ace-finetune run --memories my_memories.json --synthesize 1000 --out my-run",
        "ace-finetune run --config ace-finetune.yaml --resume",
    ),
)
