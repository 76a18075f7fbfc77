"""How many of a query's words its answer holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.systems import EvaluationSet
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer


def lexical_overlap(data: EvaluationSet, *, tokenizer: Tokenizer | None = None) -> NDArray[np.float64]:
    """Return the share of each query's distinct terms that a right answer holds, float64 [n] in [0, 1].

    Of several right answers the one with the largest share counts; a query without terms has 0. Terms are those of
    BM25 by default: stemmed, without stop words.
    """
    tokenizer = tokenizer or Tokenizer()
    overlap = np.zeros(len(data.queries))
    for number, (query, rows) in enumerate(zip(data.queries, data.relevant, strict=True)):
        terms = set(tokenizer(query))
        if terms:
            shared = (len(terms & set(tokenizer(data.corpus[int(row)]))) for row in rows)
            overlap[number] = max(shared, default=0) / len(terms)
    return overlap
