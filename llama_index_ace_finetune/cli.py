"""The command `ace-finetune`: one verb per stage, `run` for all of them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.errors import AceFinetuneError

# The rooms are imported inside the verbs, so that --help does not wait for torch.

app = typer.Typer(
    name="ace-finetune",
    help="Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Option("--data", "--test-suite", help="Queries with known answers: a file or folder.")]
Memories = Annotated[Path | None, typer.Option(help="Further memories: an inventory file.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best one by default.")]
BaseModel = Annotated[str, typer.Option(help="Hub name or folder.")]
TrainingMode = Annotated[str | None, typer.Option(help="linear, queries, full, or auto for the best of them.")]
KeepIndex = Annotated[bool, typer.Option("--keep-index", help="Train queries alone; stored vectors stay valid.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training queries.")]
Budget = Annotated[float | None, typer.Option(help="Minutes of training at most; 10 by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Queries per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was broken off.")]
Seed = Annotated[int, typer.Option(help="Of the split and of the training.")]
Negatives = Annotated[int, typer.Option(help="Hard negatives mined per query.")]
MinDifficulty = Annotated[str | None, typer.Option(help="Leave out easier queries: easy, medium or hard.")]
SkipCategories = Annotated[list[str] | None, typer.Option(help="Leave out queries of this category; repeatable.")]
_MINING = "Mining"
TopK = Annotated[int | None, typer.Option(help="Candidates per query and source.", rich_help_panel=_MINING)]
MinRank = Annotated[int | None, typer.Option(help="Refuse candidates ranked above this.", rich_help_panel=_MINING)]
RelativeMargin = Annotated[
    float | None,
    typer.Option(
        help="Highest score of a negative, as a share of its right answer's; 0 is off.", rich_help_panel=_MINING
    ),
]
AbsoluteMargin = Annotated[
    float | None, typer.Option(help="How far below its right answer a negative scores.", rich_help_panel=_MINING)
]
MaxScore = Annotated[float | None, typer.Option(help="Highest score of a negative.", rich_help_panel=_MINING)]
NearerAnswer = Annotated[
    float | None,
    typer.Option(help="Highest cosine with a right answer, as a share of the query's.", rich_help_panel=_MINING),
]
TeacherModel = Annotated[
    str | None,
    typer.Option(
        "--teacher", help="Cross-encoder or larger model whose scores the margins use.", rich_help_panel=_MINING
    ),
]
Relax = Annotated[
    bool,
    typer.Option("--relax", help="Loosen the relative margin where a query is short.", rich_help_panel=_MINING),
]
SelectionName = Annotated[str | None, typer.Option(help="top, random or spread.", rich_help_panel=_MINING)]
Dense = Annotated[bool, typer.Option(help="Take candidates from the base model.", rich_help_panel=_MINING)]
Bm25 = Annotated[bool, typer.Option(help="Take candidates from BM25.", rich_help_panel=_MINING)]


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder; must not hold anything.")],
    memories: Memories = None,
    base_model: BaseModel = DEFAULT_BASE_MODEL,
    negatives: Negatives = 5,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    mode: TrainingMode = None,
    keep_index: KeepIndex = False,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    device: Device = None,
    resume: Resume = False,
    seed: Seed = 0,
    top_k: TopK = None,
    min_rank: MinRank = None,
    relative_margin: RelativeMargin = None,
    absolute_margin: AbsoluteMargin = None,
    max_score: MaxScore = None,
    nearer_answer: NearerAnswer = None,
    teacher: TeacherModel = None,
    relax: Relax = False,
    selection: SelectionName = None,
    dense: Dense = True,
    bm25: Bm25 = True,
) -> None:
    """Do everything: read, split, mine, train, evaluate, index."""

    def command() -> None:
        from llama_index_ace_finetune.commands.run import RunSettings, run_pipeline
        from llama_index_ace_finetune.datasets.split import SplitSettings

        run_pipeline(
            RunSettings(
                data=data,
                memories=memories,
                out=out,
                training=_training(
                    base_model,
                    str(out / "model"),
                    mode,
                    keep_index,
                    epochs,
                    budget,
                    batch_size,
                    learning_rate,
                    device,
                    seed,
                ),
                split=SplitSettings(seed=seed),
                negatives=negatives,
                mining=_mining(
                    top_k,
                    min_rank,
                    relative_margin,
                    absolute_margin,
                    max_score,
                    nearer_answer,
                    teacher,
                    relax,
                    selection,
                    dense,
                    bm25,
                    seed,
                ),
                min_difficulty=_difficulty(min_difficulty),
                skip_categories=frozenset(skip_categories or ()),
                resume=resume,
                command=shlex.join(["ace-finetune", *sys.argv[1:]]),
            )
        )

    _run(command)


@app.command()
def generate(
    data: Data,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("training_data.json"),
    memories: Memories = None,
    base_model: BaseModel = DEFAULT_BASE_MODEL,
    negatives: Negatives = 5,
    min_difficulty: MinDifficulty = None,
    skip_categories: SkipCategories = None,
    max_examples: Annotated[int | None, typer.Option(help="At most so many examples.")] = None,
    qdrant_url: Annotated[str | None, typer.Option(help="Mine from a collection on this server too.")] = None,
    collection: Annotated[str, typer.Option(help="That collection.")] = "ace_memories_hybrid",
    embedding_url: Annotated[str | None, typer.Option(help="Endpoint whose vectors it holds.")] = None,
    device: Device = None,
    seed: Seed = 0,
    top_k: TopK = None,
    min_rank: MinRank = None,
    relative_margin: RelativeMargin = None,
    absolute_margin: AbsoluteMargin = None,
    max_score: MaxScore = None,
    nearer_answer: NearerAnswer = None,
    teacher: TeacherModel = None,
    relax: Relax = False,
    selection: SelectionName = None,
    dense: Dense = True,
    bm25: Bm25 = True,
    mining_report: Annotated[
        Path | None, typer.Option(help="Folder for the full report of the mining.", rich_help_panel=_MINING)
    ] = None,
) -> None:
    """Mine hard negatives and write training data."""

    def command() -> None:
        from llama_index_ace_finetune.commands.console import console
        from llama_index_ace_finetune.commands.generate import generate as write
        from llama_index_ace_finetune.datasets.split import SplitSettings
        from llama_index_ace_finetune.mining.miner import HardNegativeMiner
        from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator

        settings = _mining(
            top_k,
            min_rank,
            relative_margin,
            absolute_margin,
            max_score,
            nearer_answer,
            teacher,
            relax,
            selection,
            dense,
            bm25,
            seed,
        )
        miner = HardNegativeMiner(
            qdrant_url, collection, embedding_url, model=base_model, settings=settings, device=device
        )
        write(
            TrainingDataGenerator(
                data, output, miner, max_examples, memories=memories, split_settings=SplitSettings(seed=seed)
            ),
            negatives=negatives,
            min_difficulty=_difficulty(min_difficulty),
            skip_categories=skip_categories or (),
            report=mining_report,
            screen=console(),
        )

    _run(command)


@app.command()
def train(
    training_data: Annotated[Path, typer.Option(help="File that `generate` wrote.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for the model; its index goes beside it.")],
    base_model: BaseModel = DEFAULT_BASE_MODEL,
    mode: TrainingMode = None,
    keep_index: KeepIndex = False,
    epochs: Epochs = None,
    budget: Budget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    device: Device = None,
    resume: Resume = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune on training data; ships the base model where tuning does not help."""

    def command() -> None:
        from llama_index_ace_finetune.commands.console import console
        from llama_index_ace_finetune.commands.train import train_and_index

        config = _training(
            base_model, str(output_dir), mode, keep_index, epochs, budget, batch_size, learning_rate, device, seed
        )
        index = train_and_index(training_data, config, resume=resume)
        console().print(f"model   {output_dir}\nindex   {index}", markup=False)

    _run(command)


@app.command()
def evaluate(
    data: Data,
    model: Annotated[Path, typer.Option("--model", "--finetuned-model", help="Folder of the tuned model.")],
    memories: Memories = None,
    output: Annotated[Path, typer.Option(help="JSON file to write; an HTML page goes beside it.")] = Path(
        "report.json"
    ),
    max_queries: Annotated[int | None, typer.Option(help="Test on a random sample of so many.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Compare with this; the model's own base by default.")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Compare with this untuned model too, such as a larger one; repeatable.")
    ] = None,
    trec: Annotated[list[Path] | None, typer.Option(help="Compare with this TREC run file too; repeatable.")] = None,
    curve: Annotated[
        str | None, typer.Option(help="Train on so many queries too, such as 100,300,1000: would more data pay?")
    ] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare BM25, base, tuned, hybrids and more on queries that the model has not seen; name one to serve."""

    def command() -> None:
        from llama_index_ace_finetune.commands.console import console
        from llama_index_ace_finetune.commands.curve import read_sizes
        from llama_index_ace_finetune.commands.summary import print_summary
        from llama_index_ace_finetune.evaluate_finetuned import EmbeddingEvaluator

        report = EmbeddingEvaluator(data, memories=memories).compare_models(
            model,
            baseline=base_model,
            output_path=output,
            max_queries=max_queries,
            also=also or (),
            runs=trec or (),
            curve=read_sizes(curve) if curve else (),
            device=device,
            command=shlex.join(["ace-finetune", *sys.argv[1:]]),
        )
        if as_json:
            console().print(json.dumps(report, indent=2, ensure_ascii=False), markup=False)
            return
        print_summary(report, console())
        console().print(f"report  {output.with_suffix('.html')}", markup=False)

    _run(command)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or report.json files; each against the first.")],
    system: Annotated[
        str | None, typer.Option(help="Compare this system; what each run's dev chose by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs query by query on the test queries that they share; several seeds give mean and deviation."""

    def command() -> None:
        from llama_index_ace_finetune.commands.compare import print_comparison
        from llama_index_ace_finetune.commands.console import console

        print_comparison(runs, console(), system=system, as_json=as_json)

    _run(command)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a report.json.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Print the verdict and the table of a run, and write its page anew."""

    def command() -> None:
        from llama_index_ace_finetune.commands.console import console
        from llama_index_ace_finetune.commands.report import show_report

        show_report(run_folder, console(), open_page=open_page, as_json=as_json)

    _run(command)


@app.command()
def index(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder of the tuned model.")],
    memories: Memories = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the index; beside the model by default.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an index that is there.")] = False,
    device: Device = None,
) -> None:
    """Embed memories with the tuned model and its base, for serving."""

    def command() -> None:
        from llama_index_ace_finetune.commands.console import console
        from llama_index_ace_finetune.commands.index import index_beside, write_index
        from llama_index_ace_finetune.datasets.read_dataset import read_dataset
        from llama_index_ace_finetune.encoders.encoder import Encoder
        from llama_index_ace_finetune.encoders.settings import EncoderSettings
        from llama_index_ace_finetune.training.provenance import read_provenance

        dataset = read_dataset(data, memories)
        settings = EncoderSettings(device=device, precision="auto")
        tuned = Encoder.load(model, settings=settings)
        base_name = (read_provenance(model) or {}).get("base_model") or DEFAULT_BASE_MODEL
        base = Encoder.load(base_name, settings=settings)
        path = out or index_beside(model)
        count = write_index(dataset.memories.values(), tuned=tuned, base=base, path=path, replace=replace)
        console().print(f"{count} memories in {path}", markup=False)

    _run(command)


@app.command()
def inspect(data: Data, memories: Memories = None) -> None:
    """Show what a dataset holds: sizes, duplicates, ambiguity, and what BM25 finds."""

    def command() -> None:
        from llama_index_ace_finetune.commands.inspect import print_statistics

        print_statistics(data, memories)

    _run(command)


@app.command()
def audit(
    path: Annotated[Path, typer.Argument(help="A run folder, or a split.json.")],
    data: Annotated[
        Path | None, typer.Option("--data", "--test-suite", help="The data; the run's own by default.")
    ] = None,
    memories: Memories = None,
) -> None:
    """Count what train, dev and test share; exit 1 where they share what they must not."""

    def command() -> int:
        from llama_index_ace_finetune.commands.audit import print_audit

        return print_audit(path, data, memories)

    _run(command)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
    backend: Annotated[str, typer.Option(help="onnx or openvino.")],
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits (onnx).")] = False,
    max_loss: Annotated[float, typer.Option(help="Largest fall of dev MRR@10, absolute.")] = 0.005,
    training_data: Annotated[Path | None, typer.Option(help="File with the dev queries; the run's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the model out for serving without torch; kept only where dev says that it ranks as well."""

    def command() -> None:
        from llama_index_ace_finetune.commands.export import export_model, find_model, print_export

        model, dev = find_model(path, training_data)
        record = export_model(model, dev, backend=backend, int8=int8, max_loss=max_loss)  # type: ignore[arg-type]
        print_export(record, as_json=as_json)

    _run(command)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    run_folder: Annotated[Path, typer.Option("--run", help="Folder that `run` made.")],
    limit: Annotated[int, typer.Option(help="Results at most.")] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, dense or sparse.")] = "hybrid",
    threshold: Annotated[float | None, typer.Option(help="Lowest cosine of a dense hit.")] = None,
) -> None:
    """Search the memories of a run."""

    def command() -> None:
        from llama_index_ace_finetune.commands.search import print_hits
        from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

        options: dict[str, Any] = {"similarity_top_k": limit, "mode": mode, "threshold": threshold}
        retriever = FineTunedHybridRetriever.from_run(run_folder, **options)
        try:
            print_hits(retriever.retrieve(query))
        finally:
            retriever.close()

    _run(command)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder; must not hold anything.")] = Path("demo-run"),
) -> None:
    """Run everything on the playbook that comes with the package."""

    def command() -> None:
        from llama_index_ace_finetune.commands.demo import run_demo

        run_demo(out, command=shlex.join(["ace-finetune", *sys.argv[1:]]))

    _run(command)


def main() -> None:
    """Entry point of the console script."""
    app()


def _run(command: Callable[[], int | None]) -> None:
    from llama_index_ace_finetune.commands.console import run_command

    raise typer.Exit(run_command(command))


def _training(
    base_model: str,
    output_dir: str,
    mode: str | None,
    keep_index: bool,
    epochs: int | None,
    budget: float | None,
    batch_size: int | None,
    learning_rate: float | None,
    device: str | None,
    seed: int,
) -> Any:
    from llama_index_ace_finetune.training.config import TrainingConfig

    given = {
        "mode": mode,
        "epochs": epochs,
        "budget_minutes": budget,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    return TrainingConfig(
        base_model=base_model,
        output_dir=output_dir,
        keep_index=keep_index,
        device=device,
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )


def _mining(
    top_k: int | None,
    min_rank: int | None,
    relative_margin: float | None,
    absolute_margin: float | None,
    max_score: float | None,
    nearer_answer: float | None,
    teacher: str | None,
    relax: bool,
    selection: str | None,
    dense: bool,
    bm25: bool,
    seed: int,
) -> Any:
    from llama_index_ace_finetune.mining.settings import MiningSettings

    given = {
        "top_k": top_k,
        "min_rank": min_rank,
        "absolute_margin": absolute_margin,
        "max_score": max_score,
        "nearer_answer": nearer_answer,
        "teacher": teacher,
        "selection": selection,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if relative_margin is not None:
        options["relative_margin"] = relative_margin or None
    if relax:
        options["relaxation"] = (1.0, None)
    return MiningSettings(dense=dense, bm25=bm25, seed=seed, **options)


def _difficulty(value: str | None) -> str | None:
    if value not in (None, "easy", "medium", "hard"):
        raise AceFinetuneError(f"The minimum difficulty is {value!r}; it must be easy, medium or hard.")
    return value
