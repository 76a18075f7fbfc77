"""How near queries are to their right answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.qrels import Judgements

_BLOCK = 1 << 15  # pairs at once


@dataclass(frozen=True, slots=True)
class MeanCosine:
    """Mean cosine of a query with its right answers. It says how near they are, not whether others are nearer."""

    def __str__(self) -> str:
        return "MeanCosine"

    def per_query(
        self, queries: NDArray[np.float32], documents: NDArray[np.float32], judgements: Judgements
    ) -> NDArray[np.float64]:
        """Return float64 [n].

        Args:
            queries: vectors float [n, d].
            documents: vectors of the corpus, float [m, d].
            judgements: of the n queries.

        Raises:
            AceFinetuneError: for a query without a right answer, a judged row that the corpus lacks, or a vector of a
                pair that is NaN or infinite. One that is zero, as of a text without known words, counts 0.
        """
        if len(queries) != len(judgements) or (judgements.answers == 0).any():
            raise AceFinetuneError(
                f"{len(judgements)} judged queries, {int((judgements.answers == 0).sum())} of them without a right "
                f"answer, do not fit {len(queries)} query vectors; give one vector and a right answer for each."
            )
        if judgements.rows.max(initial=-1) >= len(documents):
            raise AceFinetuneError(
                f"A judgement names row {judgements.rows.max()}, but the corpus has {len(documents)} vectors; "
                "judge the same corpus that was encoded."
            )
        pairs = judgements.queries
        cosines = np.empty(len(pairs))
        for start in range(0, len(pairs), _BLOCK):
            part = slice(start, start + _BLOCK)
            left = np.asarray(queries[pairs[part]], np.float64)
            right = np.asarray(documents[judgements.rows[part]], np.float64)
            lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            if not np.isfinite(lengths).all():
                raise AceFinetuneError("A vector is NaN or infinite, so it has no cosine; encode its text again.")
            products = np.einsum("ij,ij->i", left, right)
            cosines[part] = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return np.bincount(pairs, cosines, minlength=len(judgements)) / judgements.answers
