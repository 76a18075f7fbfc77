"""False-negative mask: documents of a batch that are probably positives, by the base model's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.mining.filters import Mask, near_duplicate, relative_margin
from llama_index_ace_finetune.mining.settings import MiningSettings


@dataclass(frozen=True)
class FalseNegativeMask:
    """Flags documents that a frozen model scores about as high for a query as its positive.

    The rules are the filters of hard-negative mining, applied to the documents of a batch. The vectors are cached, so
    a batch costs two small matrix products and no second model.

    Source: GISTEmbed (Solatorio 2024, arXiv:2402.16829), with the base model as the guide.

    Attributes:
        query_vectors: float32 [n, d], unit rows, one per training query.
        document_vectors: float32 [m, d], unit rows, one per document of the corpus.
        relevant: positive rows of each query, at least one each.
        margin: how far below the least positive's cosine, as a part of it, a document has to stay so as not to be
            suspected; the relative `margin` of sentence-transformers' `GISTEmbedLoss`.
        near_duplicate: cosine with a positive from which on a document counts as that positive.
    """

    query_vectors: NDArray[np.float32]
    document_vectors: NDArray[np.float32]
    relevant: Sequence[NDArray[np.int64]]
    margin: float
    near_duplicate: float = MiningSettings.near_duplicate

    def mask(self, numbers: Sequence[int], rows: Sequence[int]) -> Mask:
        """Return the suspected false negatives, bool [len(numbers), len(rows)]; positives are among them.

        Args:
            numbers: of the queries.
            rows: of the documents.
        """
        documents = self.document_vectors[rows]
        answers = [self.relevant[number] for number in numbers]
        counts = [len(of_query) for of_query in answers]
        starts = np.cumsum([0, *counts[:-1]])
        right = self.document_vectors[np.concatenate(answers)]
        own = (np.repeat(self.query_vectors[numbers], counts, axis=0) * right).sum(axis=1)
        least = np.minimum.reduceat(own, starts)
        nearest = np.maximum.reduceat(right @ documents.T, starts, axis=0)
        scores = self.query_vectors[numbers] @ documents.T
        return relative_margin(scores, least, self.margin) | near_duplicate(nearest, self.near_duplicate)
