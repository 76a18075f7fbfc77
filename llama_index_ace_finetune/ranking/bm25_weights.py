"""BM25 formulas of rank-bm25: from term counts to one weight per posting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.ranking.postings import Postings


@dataclass(frozen=True)
class BM25Settings:
    """BM25 variant and parameters.

    With f the count of a term in a document, n the number of documents that contain it, N the number of documents, and
    L = 1 - b + b * length / mean length, the score of a document is the sum over the query terms (with repeats) of:

    plus:  log((N + 1) / n) * (delta + f (k1 + 1) / (f + k1 L)); rank-bm25's `BM25Plus`, which adds the delta of a
           term to documents without it too, so it changes scores but not their order.
    okapi: idf * f (k1 + 1) / (f + k1 L) with idf = log(N - n + .5) - log(n + .5), or epsilon times the mean idf
           if that is negative; `BM25Okapi`. In a corpus of a few documents a match can score 0 or below.
    l:     (log(N + 1) - log(n + .5)) * f (k1 + 1) (c + delta) / (k1 + c + delta) with c = f / L; `BM25L`.

    If delta is None, the default of rank-bm25 is used: 1 for plus, .5 for l. epsilon is for okapi only.

    The defaults gave the best mean MRR@10 on eight datasets of short texts. Formulas: Trotman, Puurula and
    Burgess, "Improvements to BM25 and language models examined", 2014; rank-bm25 0.2.2.
    """

    variant: Literal["plus", "okapi", "l"] = "plus"
    k1: float = 0.9
    b: float = 0.75
    epsilon: float = 0.25
    delta: float | None = None

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for an unknown variant or a parameter out of range."""
        if self.variant not in ("plus", "okapi", "l"):
            raise AceFinetuneError(f"There is no BM25 variant {self.variant!r}; choose plus, okapi or l.")
        for name, value, highest in (
            ("k1", self.k1, math.inf),
            ("b", self.b, 1.0),
            ("epsilon", self.epsilon, math.inf),
            ("delta", self.effective_delta, math.inf),
        ):
            if not (0 <= value <= highest and math.isfinite(value)):
                limits = "0 or more" if highest == math.inf else "from 0 to 1"
                raise AceFinetuneError(f"BM25's {name} is {value}; set it to a number that is {limits}.")

    @property
    def effective_delta(self) -> float:
        """`delta`, or the default of the variant."""
        return self.delta if self.delta is not None else (0.5 if self.variant == "l" else 1.0)


def inverse_document_frequencies(postings: Postings, settings: BM25Settings) -> NDArray[np.float64]:
    """Return the idf of each term, float64 [n_terms]; 0 for a term without documents."""
    frequencies = np.diff(postings.starts).astype(np.float64)
    used = frequencies > 0
    n, total = frequencies[used], int(postings.present.sum())
    if settings.variant == "okapi":
        values = np.log(total - n + 0.5) - np.log(n + 0.5)
        if len(values):
            # fsum: the mean must not depend on the order of the terms, or adding texts would differ from rebuilding.
            mean = math.fsum(values) / len(values)
            values = np.where(values < 0, settings.epsilon * mean, values)
    else:
        values = positive_idf(n, total, settings)
    idf = np.zeros(len(frequencies))
    idf[used] = values
    return idf


def positive_idf(n: NDArray[np.float64], total: int, settings: BM25Settings) -> NDArray[np.float64]:
    """Return the idf (variants plus and l) of terms with document frequency n [n_terms], above 0, of `total`."""
    if settings.variant == "plus":
        return np.asarray(np.log((total + 1) / n), np.float64)
    return np.asarray(np.log(total + 1) - np.log(n + 0.5), np.float64)


def corpus_inverse_document_frequencies(
    terms: Iterable[str], statistics: CorpusStatistics, settings: BM25Settings
) -> NDArray[np.float64]:
    """Return the idf of each term in a corpus, float64 [n_terms]; 0 for a term that the statistics lack.

    Raises:
        AceFinetuneError: for the variant okapi, whose idf depends on all terms of the corpus.
    """
    if settings.variant == "okapi":
        raise AceFinetuneError("BM25 okapi needs the whole corpus; use the variant plus or l for a part of it.")
    frequencies = np.array([statistics.frequencies.get(term, 0) for term in terms], np.float64)
    idf, used = np.zeros(len(frequencies)), frequencies > 0
    idf[used] = positive_idf(frequencies[used], statistics.documents, settings)
    return idf


def posting_weights(
    postings: Postings, idf: NDArray[np.float64], settings: BM25Settings, *, mean_length: float | None = None
) -> NDArray[np.float64]:
    """Return the weight of each posting in the score, float64 [n_postings], without the delta of plus.

    `mean_length` is by default that of the postings; give it for a part of a corpus.
    """
    k1, b = settings.k1, settings.b
    total_length = int(postings.lengths.sum(dtype=np.int64))
    if total_length == 0:
        return np.zeros(0)
    relative = 1 - b + b * postings.lengths / (mean_length or total_length / int(postings.present.sum()))
    counts, relative = postings.counts, relative[postings.rows]
    if settings.variant == "l":
        shifted = counts / relative + settings.effective_delta
        weights = counts * (k1 + 1) * shifted / (k1 + shifted)
    else:
        weights = counts * (k1 + 1) / (counts + k1 * relative)
    weights *= np.repeat(idf, np.diff(postings.starts))
    return np.asarray(weights, np.float64)
