"""`generate`: mine hard negatives and write training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.flags import mining_flags
from llama_index_ace_finetune.cli.options import (
    AbsoluteMargin,
    AsJson,
    BaseModel,
    Bm25,
    Columns,
    Data,
    Dense,
    Device,
    DocumentPrompt,
    Engine,
    MaxScore,
    Memories,
    MinDifficulty,
    NearerAnswer,
    NoRelativeMargin,
    NumNegatives,
    Precision,
    QueryPrompt,
    RangeMax,
    RangeMin,
    RayAddress,
    RelativeMargin,
    Relax,
    SamplingStrategyName,
    Seed,
    Shards,
    SkipCategories,
    SplitSeed,
    TeacherModel,
    Workers,
)
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.generate import GenerationResult


def generate(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("training_data.json"),
    memories: Memories = None,
    columns: Columns = None,
    base_model: BaseModel = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    num_negatives: NumNegatives = None,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    max_examples: Annotated[int | None, typer.Option(help="Maximum number of examples, a random sample.")] = None,
    qdrant_url: Annotated[str | None, typer.Option(help="Qdrant server to mine from as well.")] = None,
    collection: Annotated[str, typer.Option(help="Qdrant collection to mine from.")] = "ace_memories_hybrid",
    embedding_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that embeds queries for it.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = None,
    split_seed: SplitSeed = None,
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
    mining_report: Annotated[
        Path | None, typer.Option(help="Folder for the full report of the mining.", rich_help_panel="Mining")
    ] = None,
    shards: Shards = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
) -> None:
    """Mine hard negatives and write training data."""
    settings = mining_flags(context.params)

    def command() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.datasets.splits.split import SplitSettings
        from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
        from llama_index_ace_finetune.mining.settings import MiningSettings
        from llama_index_ace_finetune.pipeline.generate import generate as write_training_data
        from llama_index_ace_finetune.scale.engine import EngineSettings

        result = write_training_data(
            data,
            out,
            memories=memories,
            columns=columns,
            base_model=base_model or DEFAULT_BASE_MODEL,
            num_negatives=5 if num_negatives is None else num_negatives,
            min_difficulty=min_difficulty,
            skip_categories=skip_categories or (),
            max_examples=max_examples,
            qdrant_url=qdrant_url,
            collection=collection,
            embedding_url=embedding_url,
            split=SplitSettings(seed=split_seed or 0),
            mining=MiningSettings(**settings),
            mining_report=mining_report,
            device=device,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            precision=precision or "auto",
            shards=shards or (),
            engine=EngineSettings(engine=engine, ray_address=ray_address, workers=workers),
            events=ConsoleEvents(),
        )
        print_generated(result)

    execute(command, as_json=as_json)


def print_generated(result: GenerationResult) -> None:
    """Print the number of examples and the counts of the mining."""
    from llama_index_ace_finetune.mining.report import mining_counts
    from llama_index_ace_finetune.pipeline.generate import describe_mining

    def human(screen: Console) -> None:
        for line in (f"{result.examples} examples in {result.path}", *describe_mining(result.mining)):
            screen.print(line, markup=False)

    emit({"examples": result.examples, "output": str(result.path), "mining": mining_counts(result.mining)}, human)


VERB = Verb(
    generate,
    (
        "ace-finetune generate --data my_suite.json --out training_data.json",
        "ace-finetune generate --data my_suite.json --qdrant-url http://localhost:6333 --collection notes",
    ),
)
