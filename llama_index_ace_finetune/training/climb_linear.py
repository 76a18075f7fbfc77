"""The first rung: seconds, and the stored index stays valid."""

from __future__ import annotations

import time

import numpy as np

from llama_index_ace_finetune.training.ground import Ground
from llama_index_ace_finetune.training.linear_rung import fit_linear
from llama_index_ace_finetune.training.query_tower import moved_queries
from llama_index_ace_finetune.training.rung import Rung
from llama_index_ace_finetune.training.selection import Selection
from llama_index_ace_finetune.training.two_towers import linear_towers


def climb_linear(ground: Ground) -> tuple[Rung, np.ndarray | None]:
    """Fit a matrix on the query vectors; return the rung and the matrix, None where the identity is as good.

    `ground` needs dev queries: a matrix that nobody checked is not shipped.
    """
    assert ground.dev is not None
    start = time.perf_counter()
    dev = ground.dev
    fit = fit_linear(
        ground.query_vectors,
        ground.document_vectors,
        ground.examples.relevant,
        dev_queries=ground.dev_query_vectors,
        dev_relevant=dev.examples.relevant,
    )
    found = fit.chosen.kind != "identity"
    scores = ground.base_scores
    if found:
        scores = dev.rank(moved_queries(ground.dev_query_vectors, fit.matrix), ground.document_vectors)
    selection = Selection(
        share=1.0 if found else 0.0,
        difference=fit.difference,
        candidates={0.0: ground.base_scores.means} | ({1.0: scores.means} if found else {}),
        ranked_memories=len(ground.examples.corpus),
    )
    rung = Rung(
        name="linear",
        selection=selection,
        dev_mrr=float(scores.mrr.mean()),
        steps=max(candidate.steps for candidate in fit.candidates),
        epochs=0.0,
        seconds=time.perf_counter() - start,
        history=(),
        build=lambda base: linear_towers(base, fit.matrix),
    )
    return rung, fit.matrix if found else None
