"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Data = Annotated[Path, typer.Option("--data", help="Queries with known answers: a file or folder.")]
Memories = Annotated[Path | None, typer.Option(help="Further memories: an inventory file.")]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="<names>",
        help="Columns of a table, such as query=question,text=context; also answer_id, label, min_score.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        callback=lambda device: None if device == "auto" else device,
        help="cpu, cuda, mps, or auto for the best one, the default.",
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="auto, the default, takes bfloat16 where the processor computes in it."),
]
BaseModel = Annotated[str | None, typer.Option(help="Hub name or folder; all-MiniLM-L6-v2 by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and all else on standard error.")]
RequireGain = Annotated[
    bool, typer.Option("--require-gain", help="Exit 1 unless test confirms that the tuned model serves better.")
]

TrainingMode = Annotated[
    Literal["auto", "linear", "queries", "full"] | None,
    typer.Option(help="What to train; auto, the default, takes the best."),
]
KeepIndex = Annotated[
    bool | None,
    typer.Option("--keep-index/--new-index", help="Train queries alone, so that stored vectors stay valid."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training queries, in full alone.")]
Budget = Annotated[float | None, typer.Option(help="Minutes of training at most; 10 by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Queries per step, in full alone.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate, in full alone.")]
Retention = Annotated[
    str | None, typer.Option(help="General queries, a file or folder, that may lose .01 of MRR@10 at most.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was broken off.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random; 0 by default.")]

NumNegatives = Annotated[int | None, typer.Option(help="Hard negatives mined per query; 5 by default.")]
MinDifficulty = Annotated[Literal["easy", "medium", "hard"] | None, typer.Option(help="Leave out easier queries.")]
SkipCategories = Annotated[
    list[str] | None, typer.Option(metavar="<name>", help="Leave out queries of this category; repeatable.")
]

_MINING = "Mining"
RangeMax = Annotated[int | None, typer.Option(help="Candidates per query and source.", rich_help_panel=_MINING)]
RangeMin = Annotated[int | None, typer.Option(help="Skip the first N candidates of a source.", rich_help_panel=_MINING)]
RelativeMargin = Annotated[
    float | None,
    typer.Option(
        help="How far below the positive a negative scores, as a fraction of the positive's score; 0.05 by default.",
        rich_help_panel=_MINING,
    ),
]
NoRelativeMargin = Annotated[bool, typer.Option("--no-margin", help="No relative margin.", rich_help_panel=_MINING)]
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
SamplingStrategyName = Annotated[
    Literal["top", "random", "spread"] | None,
    typer.Option(help="Which of the remaining candidates are taken; random by default.", rich_help_panel=_MINING),
]
Dense = Annotated[
    bool | None, typer.Option("--dense/--no-dense", help="Take candidates from the model.", rich_help_panel=_MINING)
]
Bm25 = Annotated[
    bool | None, typer.Option("--bm25/--no-bm25", help="Take candidates from BM25.", rich_help_panel=_MINING)
]
