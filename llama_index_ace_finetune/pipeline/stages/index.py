"""Embed the memories with the tuned model and its base, for serving."""

from __future__ import annotations

from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.pipeline.stages.stage import PlanContext, Stage, StageContext, StageEstimate


def _run(context: StageContext) -> None:
    write_index(
        context.dataset.memories.values(),
        tuned=context.tuned,
        base=context.base,
        path=context.folder.index,
        cache=context.cache,
        events=context.events,
    )


def _estimate(context: PlanContext) -> list[StageEstimate]:
    # Mining and evaluation have embedded all memories before.
    return [StageEstimate("index", f"{len(context.dataset.memories)} memories, embedded by then", 0.0)]


STAGE = Stage(
    name="index",
    outputs=lambda run: (run.index,),
    key=lambda settings, dataset, keys: keys["train"],  # no other settings
    run=_run,
    estimate=_estimate,
    after=("train",),
)
