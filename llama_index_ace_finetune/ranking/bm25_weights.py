"""BM25's formulas, as rank-bm25 writes them: counts in, one weight per posting out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.postings import Postings


@dataclass(frozen=True)
class BM25Settings:
    """Which BM25, and its parameters.

    With f the count of a term in a document, n the number of documents that hold it, N of all documents, and
    L = 1 - b + b * length / mean length, a document scores the sum over the query's terms (repeats included) of:

    plus:  log((N + 1) / n) * (delta + f (k1 + 1) / (f + k1 L)); rank-bm25's `BM25Plus`, which gives the delta of a
           term to documents without it, too, so it moves scores but no order.
    okapi: idf * f (k1 + 1) / (f + k1 L) with idf = log(N - n + .5) - log(n + .5), and epsilon times the mean idf
           where that is negative; `BM25Okapi`. On a corpus of a few documents it can score a match 0 or below.
    l:     (log(N + 1) - log(n + .5)) * f (k1 + 1) (c + delta) / (k1 + c + delta) with c = f / L; `BM25L`.

    delta None is rank-bm25's own default: 1 for plus, .5 for l. epsilon is for okapi only.

    The defaults are those with the best mean MRR@10 over eight sets of short texts. Formulas: Trotman, Puurula and
    Burgess, "Improvements to BM25 and language models examined", 2014; rank-bm25 0.2.2.
    """

    variant: Literal["plus", "okapi", "l"] = "plus"
    k1: float = 0.9
    b: float = 0.75
    epsilon: float = 0.25
    delta: float | None = None

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for a variant that does not exist or a parameter out of its range."""
        if self.variant not in ("plus", "okapi", "l"):
            raise AceFinetuneError(f"There is no BM25 variant {self.variant!r}; choose plus, okapi or l.")
        for name, value, highest in (
            ("k1", self.k1, math.inf),
            ("b", self.b, 1.0),
            ("epsilon", self.epsilon, math.inf),
            ("delta", self.shift, math.inf),
        ):
            if not (0 <= value <= highest and math.isfinite(value)):
                limits = "0 or more" if highest == math.inf else "from 0 to 1"
                raise AceFinetuneError(f"BM25's {name} is {value}; set it to a number that is {limits}.")

    @property
    def shift(self) -> float:
        """The delta in force."""
        return self.delta if self.delta is not None else (0.5 if self.variant == "l" else 1.0)


def inverse_document_frequencies(postings: Postings, settings: BM25Settings) -> NDArray[np.float64]:
    """Return the idf of each term, float64 [n_terms]; 0 for a term no document holds any more."""
    frequencies = np.diff(postings.starts).astype(np.float64)
    held = frequencies > 0
    n, total = frequencies[held], int(postings.present.sum())
    if settings.variant == "okapi":
        values = np.log(total - n + 0.5) - np.log(n + 0.5)
        if len(values):
            # fsum: the mean must not depend on the order of the terms, or adding would differ from building anew.
            mean = math.fsum(values) / len(values)
            values = np.where(values < 0, settings.epsilon * mean, values)
    else:
        values = positive_idf(n, total, settings)
    idf = np.zeros(len(frequencies))
    idf[held] = values
    return idf


def positive_idf(n: NDArray[np.float64], total: int, settings: BM25Settings) -> NDArray[np.float64]:
    """Return the idf, in the variants plus and l, of terms that n [n_terms] of `total` documents hold; n is above 0."""
    if settings.variant == "plus":
        return np.asarray(np.log((total + 1) / n), np.float64)
    return np.asarray(np.log(total + 1) - np.log(n + 0.5), np.float64)


def posting_weights(postings: Postings, idf: NDArray[np.float64], settings: BM25Settings) -> NDArray[np.float64]:
    """Return what each posting adds to its document's score, float64 [n_postings]; plus's delta is not in it."""
    k1, b = settings.k1, settings.b
    total_length = int(postings.lengths.sum(dtype=np.int64))
    if total_length == 0:
        return np.zeros(0)
    relative = 1 - b + b * postings.lengths / (total_length / int(postings.present.sum()))
    counts, relative = postings.counts, relative[postings.rows]
    if settings.variant == "l":
        shifted = counts / relative + settings.shift
        weights = counts * (k1 + 1) * shifted / (k1 + shifted)
    else:
        weights = counts * (k1 + 1) / (counts + k1 * relative)
    weights *= np.repeat(idf, np.diff(postings.starts))
    return np.asarray(weights, np.float64)
