"""Classifier two-sample test: whether a classifier can distinguish two samples of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from llama_index_ace_finetune.errors import AceFinetuneError

_FOLDS: Final = 5
_MIN_ROWS: Final = 2 * _FOLDS
# Ridge penalty as a multiple of the mean eigenvalue of the kernel matrix.
_PENALTY: Final = 1.0


@dataclass(frozen=True, slots=True)
class TwoSampleTest:
    """How well the samples are distinguished: area under the ROC curve (.5: not at all, 1: fully), and p."""

    auc: float
    p_value: float


def classifier_two_sample_test(
    first: ArrayLike, second: ArrayLike, *, permutations: int = 499, seed: int = 0
) -> TwoSampleTest:
    """Test whether two samples are from one distribution.

    The method is that of Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017. A ridge classifier
    is trained in five folds to say which sample a row is from, and its area under the ROC curve is measured on the rows
    that it did not see. The p-value is that of a permutation of the labels, so it is exact for rows that are
    independent of each other. The classifier is linear in the labels, so a permutation costs one product.

    Args:
        first: float [n, d], n >= 10.
        second: float [m, d], m >= 10.
        permutations: number of permutations; the smallest p is 1 / (permutations + 1).
        seed: of folds and permutations.

    Raises:
        AceFinetuneError: for fewer than 10 rows, rows of different lengths, or values that are not finite.
    """
    samples = [np.asarray(one, np.float64) for one in (first, second)]
    if any(one.ndim != 2 or len(one) < _MIN_ROWS for one in samples) or samples[0].shape[1] != samples[1].shape[1]:
        shapes = " and ".join(str(one.shape) for one in samples)
        raise AceFinetuneError(
            f"The samples have the shapes {shapes}; give at least {_MIN_ROWS} rows of the same length each."
        )
    rows = np.concatenate(samples)
    if not np.isfinite(rows).all():
        raise AceFinetuneError("A vector of the two-sample test is NaN or infinite; leave it out.")
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(rows))
    labels[len(samples[0]) :] = 1.0
    columns = np.stack([labels, *(rng.permutation(labels) for _ in range(permutations))], axis=1)
    areas = _areas(_unseen_scores(rows, columns, rng), columns)
    return TwoSampleTest(float(areas[0]), float((areas >= areas[0] - 1e-12).mean()))


def _unseen_scores(
    rows: NDArray[np.float64], labels: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the scores of each row by the classifier of the other folds, per column of labels [n, p]."""
    centred = rows - rows.mean(axis=0)
    kernel = centred @ centred.T
    penalty = _PENALTY * np.trace(kernel) / len(rows) + 1e-12
    scores = np.empty_like(labels)
    for unseen in np.array_split(rng.permutation(len(rows)), _FOLDS):
        seen = np.setdiff1d(np.arange(len(rows)), unseen)
        within = kernel[np.ix_(seen, seen)] + penalty * np.eye(len(seen))
        smoother = np.linalg.solve(within, kernel[np.ix_(seen, unseen)]).T
        scores[unseen] = smoother @ (labels[seen] - labels[seen].mean(axis=0))
    return scores


def _areas(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under the ROC curve of each column: the fraction of pairs in the right order, ties half."""
    positives = labels.sum(axis=0)
    ranks = (rankdata(scores, axis=0) * labels).sum(axis=0)
    return np.asarray((ranks - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))
