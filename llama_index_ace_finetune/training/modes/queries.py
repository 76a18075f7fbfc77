"""The second rung: a minute or two, and the stored index stays valid."""

from __future__ import annotations

import copy
import dataclasses
import time

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.training.context import Ground
from llama_index_ace_finetune.training.loop.callback import StepProgress, TrainingWatcher
from llama_index_ace_finetune.training.loop.evaluation_cost import measure_looks
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights, select_weights
from llama_index_ace_finetune.training.modes.query_encoder import (
    FixedDocumentsDevSet,
    QueryTowerSettings,
    moved_queries,
    train_query_tower,
)
from llama_index_ace_finetune.training.modes.result import Rung
from llama_index_ace_finetune.training.saving.dual_encoder import query_and_document_towers


def climb_queries(
    ground: Ground,
    *,
    matrix: NDArray[np.float32] | None,
    minutes: float | None,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> Rung:
    """Train a copy of the base as the query tower, over the base's document vectors.

    Args:
        ground: with dev queries.
        matrix: what the linear rung found, which the tower starts from and keeps; None for none.
        minutes: of training and looks at dev, at most; None trains all epochs.
        progress: called after each step.
        on_plan: called with the planned steps before the first.
    """
    assert ground.dev is not None
    start = time.perf_counter()
    base, config = ground.encoder, ground.config
    dev = FixedDocumentsDevSet(ground.dev.examples, ground.document_vectors, matrix)
    tower = Encoder(copy.deepcopy(base.model), name=base.name, fingerprint=base.fingerprint, settings=base.settings)
    base_weights = copy_weights(base)
    retention = ground.retention
    if retention:
        general = FixedDocumentsDevSet(retention.queries.examples, ground.general_document_vectors, matrix)
        retention = dataclasses.replace(retention, queries=general)
    begun = dev.rank(moved_queries(ground.dev_query_vectors, matrix), ground.document_vectors)
    watcher = TrainingWatcher(
        tower, dev, base_scores=begun, eval_steps=None, patience=config.patience, progress=progress
    )
    steps, epochs = train_query_tower(
        tower,
        ground.examples,
        ground.document_vectors,
        settings=QueryTowerSettings(budget_minutes=minutes, max_seq_length=config.max_seq_length, seed=config.seed),
        matrix=matrix,
        watchers=[watcher],
        looks=measure_looks(tower, pool=dev, dev=dev, shares=config.interpolation, retention=retention),
        on_plan=on_plan,
        checkpoints=ground.checkpoints_of("queries"),
    )
    assert watcher.best_weights is not None
    assert watcher.best_scores is not None
    selection = select_weights(
        tower,
        base=base_weights,
        tuned=watcher.best_weights,
        base_scores=ground.base_scores,
        dev=dev,
        shares=config.interpolation,
        known={0.0: begun, 1.0: watcher.best_scores},
        retention=retention,
    )
    return Rung(
        name="queries",
        selection=selection,
        dev_mrr=float(ground.base_scores.mrr.mean()) + (selection.difference.mean if selection.ships_tuned else 0),
        steps=steps,
        epochs=epochs,
        seconds=time.perf_counter() - start,
        history=watcher.history,
        build=lambda model: query_and_document_towers(tower.model, model, matrix),
    )
