"""The stages of a run as verbs of their own: generate, train, evaluate, index, export, vectors."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

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
    Data,
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
    Resume,
    Retention,
    SamplingStrategyName,
    Seed,
    SkipCategories,
    TeacherModel,
    TrainingMode,
)
from llama_index_ace_finetune.utils.redact import without_passwords


def generate(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("training_data.json"),
    memories: Memories = None,
    columns: Columns = None,
    base_model: BaseModel = None,
    num_negatives: NumNegatives = None,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    max_examples: Annotated[int | None, typer.Option(help="At most so many examples.")] = None,
    qdrant_url: Annotated[str | None, typer.Option(help="Mine from a collection on this server too.")] = None,
    collection: Annotated[str, typer.Option(help="That collection.")] = "ace_memories_hybrid",
    embedding_url: Annotated[str | None, typer.Option(help="Endpoint whose vectors it holds.")] = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = None,
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
) -> None:
    """Mine hard negatives and write training data."""
    settings = mining_flags(context.params)

    def command() -> None:
        from llama_index_ace_finetune.datasets.splits.split import SplitSettings
        from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
        from llama_index_ace_finetune.mining.miner import HardNegativeMiner
        from llama_index_ace_finetune.mining.settings import MiningSettings
        from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
        from llama_index_ace_finetune.pipeline.generate import generate as write

        miner = HardNegativeMiner(
            qdrant_url,
            collection,
            embedding_url,
            model=base_model or DEFAULT_BASE_MODEL,
            settings=MiningSettings(**settings),
            device=device,
            precision=precision or "auto",
        )
        split = SplitSettings(seed=seed or 0)
        write(
            TrainingDataGenerator(
                data, out, miner, max_examples, memories=memories, columns=columns, split_settings=split
            ),
            num_negatives=5 if num_negatives is None else num_negatives,
            min_difficulty=min_difficulty,
            skip_categories=skip_categories or (),
            report=mining_report,
        )

    execute(command, as_json=as_json)


def train(
    context: typer.Context,
    training_data: Annotated[Path, typer.Option(help="File that `generate` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; its index goes beside it.")],
    base_model: BaseModel = None,
    mode: TrainingMode = None,
    keep_index: KeepIndex = None,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    retention: Retention = None,
    device: Device = None,
    precision: Precision = None,
    resume: Resume = False,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on training data; keeps the base where tuning fails."""
    settings = training_flags(context.params)

    def command() -> None:
        from llama_index_ace_finetune.pipeline.train import train_and_index
        from llama_index_ace_finetune.training.config import TrainingConfig
        from llama_index_ace_finetune.utils.console import show

        config = TrainingConfig(**settings, output_dir=str(out))
        index, metrics = train_and_index(training_data, config, resume=resume)
        show(
            {"model": str(out), "index": str(index), **metrics},
            lambda screen: screen.print(f"model   {out}\nindex   {index}", markup=False),
        )

    execute(command, as_json=as_json)


def evaluate(
    data: Data,
    model: Annotated[Path, typer.Option("--model", help="Folder of the tuned model.")],
    memories: Memories = None,
    columns: Columns = None,
    out: Annotated[Path, typer.Option(help="JSON file to write; an HTML page goes beside it.")] = Path("report.json"),
    max_queries: Annotated[int | None, typer.Option(help="Test on a random sample of so many.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Compare with this; the model's own base by default.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="<model>", help="Compare with this untuned model too, such as a larger one; repeatable."),
    ] = None,
    trec: Annotated[
        list[Path] | None, typer.Option(metavar="<file>", help="Compare with this TREC run file too; repeatable.")
    ] = None,
    curve: Annotated[
        str | None, typer.Option(help="Train on so many queries too, such as 100,300,1000: would more data pay?")
    ] = None,
    run_files: Annotated[
        Path | None, typer.Option(metavar="<folder>", help="Write TREC run files and qrels into this folder.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
    require_gain: RequireGain = False,
    as_json: AsJson = False,
) -> None:
    """Compare models, BM25 and hybrids on queries they have not seen."""

    def command() -> int:
        from llama_index_ace_finetune.evaluate_finetuned import EmbeddingEvaluator
        from llama_index_ace_finetune.pipeline.learning_curve import read_sizes
        from llama_index_ace_finetune.pipeline.summary import print_report, required_gain
        from llama_index_ace_finetune.utils.console import show

        report = EmbeddingEvaluator(data, memories=memories, columns=columns).compare_models(
            model,
            baseline=base_model,
            output_path=out,
            max_queries=max_queries,
            also=also or (),
            runs=trec or (),
            curve=read_sizes(curve) if curve else (),
            device=device,
            precision=precision or "auto",
            command=without_passwords(shlex.join(["ace-finetune", *sys.argv[1:]])),
            run_files=run_files,
        )
        show(report, lambda screen: print_report(report, out.with_suffix(".html"), screen))
        return required_gain(report) if require_gain else 0

    execute(command, as_json=as_json)


def index(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder of the tuned model.")],
    memories: Memories = None,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the index; beside the model by default.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an index that is there.")] = False,
    device: Device = None,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Embed memories with the tuned model and its base, for serving."""

    def command() -> None:
        from llama_index_ace_finetune.datasets.read_dataset import read_dataset
        from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
        from llama_index_ace_finetune.encoders.encoder import Encoder
        from llama_index_ace_finetune.encoders.provenance import read_provenance
        from llama_index_ace_finetune.encoders.settings import EncoderSettings
        from llama_index_ace_finetune.pipeline.index import check_index_output, index_beside, write_index
        from llama_index_ace_finetune.utils.console import show

        path = out or index_beside(model)
        check_index_output(path, replace=replace)
        dataset = read_dataset(data, memories, columns=columns)
        settings = EncoderSettings(device=device, precision=precision or "auto")
        tuned = Encoder.load(model, settings=settings)
        base_name = (read_provenance(model) or {}).get("base_model") or DEFAULT_BASE_MODEL
        base = Encoder.load(base_name, settings=settings)
        count = write_index(dataset.memories.values(), tuned=tuned, base=base, path=path, replace=replace)
        show(
            {"memories": count, "index": str(path)},
            lambda screen: screen.print(f"{count} memories in {path}", markup=False),
        )

    execute(command, as_json=as_json)


def export(
    path: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    backend: Annotated[Literal["onnx", "openvino"], typer.Option(help="Runtime to export for.")],
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits (onnx).")] = False,
    max_loss: Annotated[float, typer.Option(help="Largest fall of dev MRR@10, absolute.")] = 0.005,
    training_data: Annotated[Path | None, typer.Option(help="File with the dev queries; the run's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the model for serving without torch, if dev allows it."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.export import export_model, find_model, print_export

        model, dev = find_model(path, training_data)
        print_export(export_model(model, dev, backend=backend, int8=int8, max_loss=max_loss))

    execute(command, as_json=as_json)


def vectors(
    path: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    dimensions: Annotated[
        str | None, typer.Option(help="Shorter lengths to try, such as 256,128; by default those it was trained for.")
    ] = None,
    training_data: Annotated[Path | None, typer.Option(help="File with the dev queries; the run's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what shorter, 8-bit and binary vectors cost on dev."""

    def command() -> None:
        from llama_index_ace_finetune.pipeline.export import find_model
        from llama_index_ace_finetune.pipeline.vector_formats import compare_forms, print_forms, read_dimensions

        chosen = read_dimensions(dimensions) if dimensions is not None else None
        model, dev = find_model(path, training_data)
        print_forms(compare_forms(model, dev, chosen), dev)

    execute(command, as_json=as_json)
