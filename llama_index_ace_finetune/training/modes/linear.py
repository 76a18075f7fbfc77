"""The first rung: seconds, and the stored index stays valid."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.training.context import Ground
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, choose_share
from llama_index_ace_finetune.training.model_selection.retention import Retention
from llama_index_ace_finetune.training.modes.linear_adapter import fit_linear
from llama_index_ace_finetune.training.modes.query_encoder import moved_queries
from llama_index_ace_finetune.training.modes.result import Rung
from llama_index_ace_finetune.training.saving.dual_encoder import linear_towers


def climb_linear(ground: Ground) -> tuple[Rung, NDArray[np.float32] | None]:
    """Fit a matrix on the query vectors; return the rung and the matrix, None where the identity is as good.

    `ground` needs dev queries: a matrix that nobody checked is not shipped.
    """
    assert ground.dev is not None
    start = time.perf_counter()
    dev, retention = ground.dev, ground.retention
    fit = fit_linear(
        ground.query_vectors,
        ground.document_vectors,
        ground.examples.relevant,
        dev_queries=ground.dev_query_vectors,
        dev_relevant=dev.examples.relevant,
        own=ground.examples.own,
        dev_own=dev.examples.own,
    )
    share = float(fit.chosen.kind != "identity")
    difference = fit.difference
    losses: dict[float, float] = {}
    if share and retention:
        share, difference, losses = _keep_general(ground, fit.matrix, retention)
    matrix = part_of_the_way(fit.matrix, share)
    scores = ground.base_scores
    if share:
        scores = dev.rank(moved_queries(ground.dev_query_vectors, matrix), ground.document_vectors)
    selection = Selection(
        share=share,
        difference=difference,
        candidates={0.0: ground.base_scores.means} | ({share: scores.means} if share else {}),
        ranked_memories=len(ground.examples.corpus),
        retention=retention.record(losses) if retention else None,
    )
    rung = Rung(
        name="linear",
        selection=selection,
        dev_mrr=float(scores.mrr.mean()),
        steps=max(candidate.steps for candidate in fit.candidates),
        epochs=0.0,
        seconds=time.perf_counter() - start,
        history=(),
        build=lambda base: linear_towers(base, matrix),
    )
    return rung, matrix if share else None


def part_of_the_way(matrix: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return (1 - share) * identity + share * matrix; share 1 is exact."""
    if share == 1:
        return matrix
    return np.asarray((1 - share) * np.eye(len(matrix)) + share * matrix, np.float32)


def _keep_general(
    ground: Ground, matrix: NDArray[np.float32], retention: Retention
) -> tuple[float, PairedDifference, dict[float, float]]:
    """Go as far from the identity as the general queries allow, whole or by the shares of the interpolation."""
    assert ground.dev is not None
    dev = ground.dev

    def moved(queries: NDArray[np.float32], share: float) -> NDArray[np.float32]:
        return moved_queries(queries, part_of_the_way(matrix, share))

    def on_dev(share: float) -> DevScores:
        return dev.rank(moved(ground.dev_query_vectors, share), ground.document_vectors)

    def lost(share: float) -> float:
        queries = moved(ground.general_query_vectors, share)
        return retention.loss(retention.queries.rank(queries, ground.general_document_vectors))

    return choose_share(
        sorted({1.0, *ground.config.interpolation}, reverse=True),
        base_scores=ground.base_scores,
        groups=dev.groups,
        on_dev=on_dev,
        lost=lost,
        bound=retention.bound,
    )
