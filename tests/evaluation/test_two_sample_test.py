from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.stats.two_sample_test import classifier_two_sample_test


def test_area_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (30, 6)), rng.normal(0.5, 1, (20, 6))
    rows, labels = np.concatenate([first, second]), np.r_[np.zeros(30), np.ones(20)]
    centred = rows - rows.mean(axis=0)
    penalty = (centred**2).sum() / 50
    # The folds of the same generator: first come the permutations of the labels, here one.
    folds = np.random.default_rng(7)
    folds.permutation(labels)
    scores = np.empty(50)
    for unseen in np.array_split(folds.permutation(50), 5):
        seen = np.setdiff1d(np.arange(50), unseen)
        model = linear_model.Ridge(alpha=penalty, fit_intercept=False)
        scores[unseen] = model.fit(centred[seen], labels[seen] - labels[seen].mean()).predict(centred[unseen])
    found = classifier_two_sample_test(first, second, permutations=1, seed=7)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores))


def test_p_values_without_a_difference_are_uniform() -> None:
    rng = np.random.default_rng(1)
    values = [
        classifier_two_sample_test(
            rng.normal(size=(20, 8)), rng.normal(size=(15, 8)), permutations=99, seed=seed
        ).p_value
        for seed in range(100)
    ]
    assert kstest(values, "uniform").pvalue > 0.01


def test_separated_samples_are_distinguished() -> None:
    rng = np.random.default_rng(2)
    found = classifier_two_sample_test(rng.normal(0, 1, (40, 5)), rng.normal(3, 1, (40, 5)), permutations=99)
    assert found.auc > 0.99
    assert found.p_value == 0.01


def test_equal_rows_have_no_order() -> None:
    found = classifier_two_sample_test(np.ones((12, 3)), np.ones((12, 3)), permutations=19)
    assert found.auc == pytest.approx(0.5)
    assert found.p_value == 1.0


def test_bad_input() -> None:
    with pytest.raises(AceFinetuneError, match="at least 10 rows"):
        classifier_two_sample_test(np.ones((9, 3)), np.ones((12, 3)))
    with pytest.raises(AceFinetuneError, match="of the same length"):
        classifier_two_sample_test(np.ones((12, 2)), np.ones((12, 3)))
    with pytest.raises(AceFinetuneError, match="NaN or infinite"):
        classifier_two_sample_test(np.full((12, 3), np.nan), np.ones((12, 3)))
