"""Embed the memories with the tuned model and its base, for serving."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.pipeline.stages.stage import PlanContext, Stage, StageContext, StageEstimate


def _run(context: StageContext) -> None:
    serving = context.folder.serving()
    served = context.base if serving.vectors == "base" else context.tuned
    tokens = context.kept_tokens.get(served.fingerprint)
    context.kept_tokens.clear()  # those of the other model take as much memory
    write_index(
        context.dataset.memories.values(),
        tuned=context.tuned,
        base=context.base,
        path=context.folder.index,
        serving=serving,
        corpus=[memory.text for memory in context.dataset.answers.values()],
        tokens=tokens,
        sparse=context.sparse_vectors if serving.sparse_encoder else None,
        known=KnownQueries.of(context.dataset, read_provenance(context.folder.model)),
        cache=context.cache,
        events=context.events,
    )


def _estimate(context: PlanContext) -> list[StageEstimate]:
    # Mining and evaluation have embedded all memories before; late interaction is in the estimate of the evaluation.
    return [StageEstimate("index", f"{len(context.dataset.memories)} memories, embedded by then", 0.0)]


STAGE = Stage(
    name="index",
    outputs=lambda run: (run.index,),
    key=lambda settings, dataset, keys: keys.get("folds", keys["evaluate"]),  # which decides what is served
    run=_run,
    estimate=_estimate,
    after=("train", "evaluate", "folds"),
)
