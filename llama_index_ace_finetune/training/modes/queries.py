"""Mode `queries`: a query encoder over fixed document vectors; the stored index stays valid."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.modes.mode import Mode
from llama_index_ace_finetune.training.modes.query_encoder import apply_adapter
from llama_index_ace_finetune.training.modes.query_tower import Documents, estimate_query_tower, train_query_tower
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder


def train_queries(
    context: TrainingContext,
    *,
    previous: Sequence[ModeResult] = (),
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ModeResult:
    """Train a copy of the base as the query encoder, over the base's document vectors.

    Args:
        context: with dev queries.
        previous: results of earlier modes; the query adapter of the last one, if any, is kept behind the encoder.
        minutes: of training and dev evaluations, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
    """
    assert context.dev is not None
    matrix = next((result.query_adapter for result in reversed(previous)), None)
    documents = Documents(
        context.document_vectors,
        general=lambda: context.general_document_vectors,
        matrix=matrix,
        start=context.dev.rank(apply_adapter(context.dev_query_vectors, matrix), context.document_vectors),
    )
    return train_query_tower(
        context,
        documents,
        name="queries",
        build=lambda queries, base: dual_encoder(queries, base, matrix),
        minutes=minutes,
        progress=progress,
        on_plan=on_plan,
    )


MODE = Mode(
    name="queries",
    keeps_index=True,
    needs_dev=True,
    train=train_queries,
    estimate=estimate_query_tower,
    starts_from=("linear",),
)
