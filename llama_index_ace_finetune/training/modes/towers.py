"""Mode `towers`: after `full`, a separate query encoder over the tuned document vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights
from llama_index_ace_finetune.training.modes.mode import Mode
from llama_index_ace_finetune.training.modes.query_tower import Documents, estimate_query_tower, train_query_tower
from llama_index_ace_finetune.training.modes.result import ModeResult
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder


def train_towers(
    context: TrainingContext,
    *,
    previous: Sequence[ModeResult] = (),
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ModeResult:
    """Train a copy of the model of mode `full` as the query encoder, over that model's document vectors.

    A step encodes queries only, and compares them with the whole corpus: many steps, each against every memory, in a
    fraction of the time of `full`, which has moved the documents.

    Args:
        context: with dev queries.
        previous: results of earlier modes; the last that trained queries and documents is what it starts from, or the
            base model where there is none.
        minutes: of training and dev evaluations, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
    """
    assert context.dev is not None
    encoder = context.encoder
    base_weights = copy_weights(encoder)
    full = next((result for result in reversed(previous) if result.weights is not None and result.ships), None)
    weights: Mapping[str, Tensor] = base_weights
    try:
        found = context.base_scores
        if full is not None and full.weights is not None:
            weights = full.weights
            encoder.model.load_state_dict(weights)
            known = full.selection.scores if full.selection else None
            # A resumed training has the scores, without the vectors.
            found = known if known and known.documents is not None else context.dev.score(encoder)
        documents = Documents(
            context.document_vectors if found.documents is None else found.documents,
            general=lambda: encoder.encode_documents(context.general.examples.corpus if context.general else ()),
            matrix=None,
            start=found,
        )
        result = train_query_tower(
            context,
            documents,
            name="towers",
            build=lambda queries, base: _with_documents_of(weights, queries, base),
            minutes=minutes,
            progress=progress,
            on_plan=on_plan,
            token_projection=full.token_projection if full else None,
        )
    finally:
        encoder.model.load_state_dict(base_weights)
    return dataclasses.replace(result, preferred=full is not None and full.preferred)


def _with_documents_of(
    weights: Mapping[str, Tensor], queries: SentenceTransformer, base: SentenceTransformer
) -> SentenceTransformer:
    base.load_state_dict(weights)
    return dual_encoder(queries, base)


MODE = Mode(
    name="towers",
    keeps_index=False,
    needs_dev=True,
    train=train_towers,
    estimate=estimate_query_tower,
    starts_from=("full",),
)
