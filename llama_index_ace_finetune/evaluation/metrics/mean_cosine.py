"""Mean cosine similarity of queries and their relevant documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.qrels import Qrels

_BLOCK = 1 << 15  # pairs at once


@dataclass(frozen=True, slots=True)
class MeanCosine:
    """Mean cosine of a query with its relevant documents: how close they are, not whether they rank first."""

    def __str__(self) -> str:
        return "MeanCosine"

    def per_query(
        self, queries: NDArray[np.float32], documents: NDArray[np.float32], qrels: Qrels
    ) -> NDArray[np.float64]:
        """Return float64 [n].

        Args:
            queries: vectors float [n, d].
            documents: vectors of the corpus, float [m, d].
            qrels: of the n queries.

        Raises:
            AceFinetuneError: for a query without a relevant document, a judged row beyond the corpus, or a vector
                that is NaN or infinite. A zero vector, as of a text without known words, has cosine 0.
        """
        if len(queries) != len(qrels) or (qrels.relevant_counts == 0).any():
            raise AceFinetuneError(
                f"{len(qrels)} judged queries, {int((qrels.relevant_counts == 0).sum())} of them without a relevant "
                f"document, do not fit {len(queries)} query vectors; give one vector and a relevant document for each."
            )
        if qrels.rows.max(initial=-1) >= len(documents):
            raise AceFinetuneError(
                f"The qrels name row {qrels.rows.max()}, but the corpus has {len(documents)} vectors; "
                "use qrels of the encoded corpus."
            )
        pairs = qrels.queries
        cosines = np.empty(len(pairs))
        for start in range(0, len(pairs), _BLOCK):
            part = slice(start, start + _BLOCK)
            left = np.asarray(queries[pairs[part]], np.float64)
            right = np.asarray(documents[qrels.rows[part]], np.float64)
            lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            if not np.isfinite(lengths).all():
                raise AceFinetuneError("A vector is NaN or infinite, so it has no cosine; encode its text again.")
            products = np.einsum("ij,ij->i", left, right)
            cosines[part] = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return np.bincount(pairs, cosines, minlength=len(qrels)) / qrels.relevant_counts
