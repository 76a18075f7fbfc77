"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import typer

from llama_index_ace_finetune.training.config import ModeName, TaskName

Data = Annotated[Path, typer.Option("--data", help="Queries with known answers: a file or folder.")]
Memories = Annotated[
    str | None,
    typer.Option(
        metavar="<path or url>",
        help="Further memories: a file, the folder of a persisted LlamaIndex index, or a Qdrant collection.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="<names>",
        help="Columns of a table, such as query=question,text=context; also answer_id, label, min_score.",
    ),
]
Shards = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="<folder>", help="Vectors that `ace-finetune encode` wrote; repeatable, such as for the base model."
    ),
]
_MODEL, _TRAINING, _SERVED, _MINING, _SCALE = "Model", "Training", "System to serve", "Mining", "Scale"
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="A loop in this process, or workers on Ray (extra scale).", rich_help_panel=_SCALE),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="<host:port>",
        help="A running Ray cluster, or auto for the one of this machine; by default Ray is started here.",
        rich_help_panel=_SCALE,
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Ray workers (default one per GPU, or per core).", rich_help_panel=_SCALE)
]
Device = Annotated[
    str | None,
    typer.Option(
        callback=lambda device: None if device == "auto" else device,
        help="cpu, cuda, mps, or auto, the default, for the best one.",
        rich_help_panel=_MODEL,
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="auto, the default, uses bfloat16 if the device supports it.", rich_help_panel=_MODEL),
]
BaseModel = Annotated[
    str | None, typer.Option(help="Hub name or folder (default all-MiniLM-L6-v2).", rich_help_panel=_MODEL)
]
BaseModels = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        help="Hub name or folder (default all-MiniLM-L6-v2); of several, separated by commas, or of those on this "
        "machine (auto), dev chooses one.",
        rich_help_panel=_MODEL,
    ),
]
QueryPrompt = Annotated[
    str | None,
    typer.Option(
        help="Text in front of every query (default: that of the base model or its family).", rich_help_panel=_MODEL
    ),
]
DocumentPrompt = Annotated[str | None, typer.Option(help="The same for memories.", rich_help_panel=_MODEL)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and all else on standard error.")]
RequireGain = Annotated[
    bool, typer.Option("--require-gain", help="Exit 1 unless test confirms a gain of the tuned model.")
]

TrainingMode = Annotated[
    Literal["auto", ModeName] | None,
    typer.Option(help="What to train; auto, the default, keeps the best.", rich_help_panel=_TRAINING),
]
KeepIndex = Annotated[
    bool | None,
    typer.Option(
        "--keep-index/--new-index",
        help="Train only the query side, so that stored vectors stay valid.",
        rich_help_panel=_TRAINING,
    ),
]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training queries, at most (default 4).", rich_help_panel=_TRAINING)
]
Budget = Annotated[
    float | None, typer.Option(help="Maximum training time in minutes (default 10).", rich_help_panel=_TRAINING)
]
BatchSize = Annotated[int | None, typer.Option(help="Queries per step (default 64).", rich_help_panel=_TRAINING)]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak of the learning rate (default 1e-4).", rich_help_panel=_TRAINING)
]
Remine = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Mine negatives again N times with the weights so far (mode full only; default 0).",
        rich_help_panel=_TRAINING,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        help="Processes of this machine that divide the batches of in_batch and full.",
        rich_help_panel=_TRAINING,
    ),
]
RefitOn = Annotated[
    Literal["auto", "none", "dev", "all"] | None,
    typer.Option(
        "--refit",
        help="Train the selected mode once more, on dev queries too (dev) or on all (all); default auto: dev in a run "
        "whose budget has time left for it.",
        rich_help_panel=_TRAINING,
    ),
]
LateInteractionWeight = Annotated[
    float | None,
    typer.Option(
        help="Weight of a second loss, over the MaxSim of token vectors, for re-ranking; 0, the default, trains single "
        "vectors only (modes in_batch and full).",
        rich_help_panel=_TRAINING,
    ),
]
Retention = Annotated[
    str | None,
    typer.Option(
        help="General queries, a file or folder, whose MRR@10 may fall by .01 at most.", rich_help_panel=_TRAINING
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<data>",
        help="Further datasets to train on, each with its own memories: files or folders, separated by commas; "
        "repeatable.",
        rich_help_panel=_TRAINING,
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<names>",
        help=f"Further tasks, made from the data themselves: {', '.join(get_args(TaskName))}; repeatable.",
        rich_help_panel=_TRAINING,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
QueryMs = Annotated[
    float | None,
    typer.Option(
        metavar="<ms>", help="Maximum time per query of the system to serve, in milliseconds.", rich_help_panel=_SERVED
    ),
]
BytesPerMemory = Annotated[
    float | None,
    typer.Option(metavar="<bytes>", help="Maximum storage per memory of the system to serve.", rich_help_panel=_SERVED),
]
SparseEncoderName = Annotated[
    str | None,
    typer.Option(
        "--sparse-encoder",
        metavar="<folder>",
        help="Sparse encoder (SPLADE), a sentence-transformers SparseEncoder, to compare systems with it too.",
        rich_help_panel=_SERVED,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed (default 0).")]
SplitSeed = Annotated[
    int | None, typer.Option(help="Random seed of the split, apart from that of mining and training (default 0).")
]

NumNegatives = Annotated[
    int | None, typer.Option(help="Hard negatives mined per query (default 5).", rich_help_panel=_MINING)
]
MinDifficulty = Annotated[
    Literal["easy", "medium", "hard"] | None, typer.Option(help="Leave out easier queries.", rich_help_panel=_MINING)
]
SkipCategories = Annotated[
    list[str] | None,
    typer.Option(metavar="<name>", help="Leave out queries of this category; repeatable.", rich_help_panel=_MINING),
]

LLM_PANEL = "Language model"
LlmUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint, as of Ollama or vLLM.", rich_help_panel=LLM_PANEL)
]
LlmModel = Annotated[str | None, typer.Option(help="Name of the model there.", rich_help_panel=LLM_PANEL)]
LlmKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable that holds the API key (default OPENAI_API_KEY).", rich_help_panel=LLM_PANEL
    ),
]

RangeMax = Annotated[int | None, typer.Option(help="Candidates per query and source.", rich_help_panel=_MINING)]
RangeMin = Annotated[int | None, typer.Option(help="Skip the first N candidates of a source.", rich_help_panel=_MINING)]
RelativeMargin = Annotated[
    float | None,
    typer.Option(
        help="How far below its positive a negative must score, as a fraction of the positive's score (default 0.05).",
        rich_help_panel=_MINING,
    ),
]
NoRelativeMargin = Annotated[bool, typer.Option("--no-margin", help="No relative margin.", rich_help_panel=_MINING)]
AbsoluteMargin = Annotated[
    float | None, typer.Option(help="How far below its positive a negative must score.", rich_help_panel=_MINING)
]
MaxScore = Annotated[float | None, typer.Option(help="Maximum score of a negative.", rich_help_panel=_MINING)]
NearerAnswer = Annotated[
    float | None,
    typer.Option(help="Maximum cosine with a positive, as a fraction of the query's.", rich_help_panel=_MINING),
]
TeacherModel = Annotated[
    str | None,
    typer.Option(
        "--teacher", help="Cross-encoder or larger model whose scores the margins use.", rich_help_panel=_MINING
    ),
]
Relax = Annotated[
    bool,
    typer.Option(
        "--relax", help="Loosen the relative margin for queries with too few negatives.", rich_help_panel=_MINING
    ),
]
SamplingStrategyName = Annotated[
    Literal["top", "random", "spread"] | None,
    typer.Option(
        help="How negatives are sampled from the remaining candidates (default random).", rich_help_panel=_MINING
    ),
]
Dense = Annotated[
    bool | None,
    typer.Option("--dense/--no-dense", help="Candidates from the embedding model.", rich_help_panel=_MINING),
]
Bm25 = Annotated[bool | None, typer.Option("--bm25/--no-bm25", help="Candidates from BM25.", rich_help_panel=_MINING)]
Title = Annotated[str | None, typer.Option(metavar="<text>", help="Title of the report.")]
DevData = Annotated[
    Path | None, typer.Option("--training-data", help="File with the dev queries; by default the run's own.")
]

SERVER_PANEL: Final = "Qdrant server"
ServerUrl = Annotated[
    str | None,
    typer.Option("--url", help="Address of a Qdrant server, instead of a folder.", rich_help_panel=SERVER_PANEL),
]
ServerCollection = Annotated[
    str | None,
    typer.Option("--collection", help="Name of the memories there (default memories).", rich_help_panel=SERVER_PANEL),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        metavar="<name>",
        help="Environment variable with the API key (default QDRANT_API_KEY).",
        rich_help_panel=SERVER_PANEL,
    ),
]
PreferGrpc = Annotated[bool, typer.Option("--grpc", help="Use gRPC, at port 6334.", rich_help_panel=SERVER_PANEL)]
