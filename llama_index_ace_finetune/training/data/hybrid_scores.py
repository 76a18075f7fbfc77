"""Scores of the base model fused with BM25, the teacher of the single vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.candidate_scores import PADDING
from llama_index_ace_finetune.ranking.scoring_legs import DenseLeg, LexicalLeg, candidate_scores
from llama_index_ace_finetune.training.data.examples import IndexedExamples

_DEPTH = 50
_AT_ONCE = 512
_WEIGHTS = (0.85, 0.15)  # of cosines and BM25: those of the served combination where dev shows no difference


def hybrid_scores(
    examples: IndexedExamples, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> list[Mapping[int, float]]:
    """Return, per query, the fused score in [0, 1] of each candidate, by corpus row.

    Candidates are the first 50 hits of both legs; those that come into a batch are compared. A score is 0.85 of the
    normalised cosine and 0.15 of the normalised BM25 score, the neutral weights of the served combination: no label is
    used.

    Source: self-distillation of a hybrid into its dense leg, with the convex combination of Bruch, Gai, Ingber, "An
    analysis of fusion functions for hybrid retrieval", TOIS 2023.

    Args:
        examples: the training queries, and the corpus.
        queries: the base's vectors of the queries, float32 [n, d].
        documents: the base's vectors of the corpus, float32 [m, d].
    """
    index = BM25Index.build(examples.corpus)
    found: list[Mapping[int, float]] = []
    for start in range(0, len(examples.queries), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        table = candidate_scores(
            [DenseLeg(queries[part], documents), LexicalLeg(index, examples.queries[part])],
            depth=_DEPTH,
            own=None if examples.own is None else examples.own[part],
        )
        sums = table.sums(_WEIGHTS)
        for rows, scores in zip(table.rows, sums, strict=True):
            there = rows != PADDING
            found.append(dict(zip(rows[there].tolist(), scores[there].tolist(), strict=True)))
    return found
