from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.training.modes.linear_adapter import (
    LinearAdapterFit,
    LinearAdapterSettings,
    fit_query_adapter,
    ridge_matrix,
)

Rows = list[NDArray[np.int64]]
Problem = tuple[NDArray[np.float32], NDArray[np.float32], Rows, NDArray[np.float32], Rows]


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def rotated(*, documents: int = 400, queries: int = 300, d: int = 24, seed: int = 0, noise: float = 0.6) -> Problem:
    """Queries are noisy copies of documents under a fixed rotation, which a matrix can undo."""
    generator = np.random.default_rng(seed)
    corpus = unit(generator.normal(size=(documents, d)))
    rotation, upper = np.linalg.qr(np.eye(d) + 0.25 * generator.normal(size=(d, d)))
    # Without the signs, the decomposition may flip an axis.
    rotation *= np.sign(np.diag(upper))
    rows = generator.integers(0, documents, 2 * queries)
    asked = unit(corpus[rows] @ rotation + noise * generator.normal(size=(2 * queries, d)) / np.sqrt(d))
    relevant = [np.array([row], np.int64) for row in rows]
    return asked[:queries], corpus, relevant[:queries], asked[queries:], relevant[queries:]


def fit(problem: Problem, **settings: Any) -> LinearAdapterFit:
    queries, corpus, relevant, dev, dev_relevant = problem
    return fit_query_adapter(
        queries,
        corpus,
        relevant,
        dev_queries=dev,
        dev_relevant=dev_relevant,
        settings=LinearAdapterSettings(**settings),
    )


def mrr(queries: NDArray[np.float32], corpus: NDArray[np.float32], relevant: Rows) -> float:
    return float(per_query(MRR(10), dense_top_k(queries, corpus, 10)[0], relevant).mean())


def test_ridge_worked_example() -> None:
    # One dimension, q = 1, d = .5, lambda = 1: minimise (w - .5)^2 + (w - 1)^2, so w = .75.
    assert ridge_matrix(torch.tensor([[1.0]]), torch.tensor([[0.5]]), 1.0).item() == pytest.approx(0.75)


def test_ridge_equals_the_closed_form_and_is_a_minimum() -> None:
    generator = np.random.default_rng(0)
    q, t = generator.normal(size=(50, 6)), generator.normal(size=(50, 6))
    ours = ridge_matrix(torch.from_numpy(q), torch.from_numpy(t), 3.0).numpy()
    identity = np.eye(6)
    # Row by row: (W - I)' solves an ordinary ridge regression of T - Q on Q.
    expected = identity + (np.linalg.inv(q.T @ q + 3.0 * identity) @ q.T @ (t - q)).T
    np.testing.assert_allclose(ours, expected, atol=1e-6)

    def objective(w: NDArray[Any]) -> float:
        return float(((q @ w.T - t) ** 2).sum() + 3.0 * ((w - identity) ** 2).sum())

    nearby = [expected + 0.01 * generator.normal(size=(6, 6)) for _ in range(20)]
    assert min(objective(matrix) for matrix in nearby) > objective(expected)


def test_ridge_goes_from_least_squares_to_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    q, t = torch.randn(40, 5, generator=generator), torch.randn(40, 5, generator=generator)
    assert torch.allclose(ridge_matrix(q, t, 1e9), torch.eye(5), atol=1e-5)
    assert torch.allclose(ridge_matrix(q, t, 1e-9), torch.linalg.lstsq(q, t).solution.T, atol=1e-4)


@pytest.mark.parametrize("whole_corpus", [5_000, 100])
def test_adapter_undoes_a_rotation(whole_corpus: int) -> None:
    problem = rotated()
    found = fit(problem, whole_corpus=whole_corpus)
    _, corpus, _, dev, dev_relevant = problem
    before, after = mrr(dev, corpus, dev_relevant), mrr(dev @ found.matrix.T, corpus, dev_relevant)
    assert after > before + 0.1
    assert found.chosen.kind != "identity"
    assert found.matrix.dtype == np.float32
    assert found.matrix.shape == (24, 24)
    # The figures of the table and the difference equal those of the metrics.
    assert found.candidates[0].dev_mrr == pytest.approx(before, abs=1e-6)
    assert found.chosen.dev_mrr == pytest.approx(after, abs=1e-6)
    assert found.chosen.dev_mrr == max(candidate.dev_mrr for candidate in found.candidates)
    assert found.difference.mean == pytest.approx(after - before, abs=1e-6)
    assert found.difference.low > 0


def test_training_beats_the_ridge_solution() -> None:
    # Half the axes are large but noisy in the queries, half are small but clean: the softmax learns to weight those.
    generator = np.random.default_rng(0)
    corpus = unit(generator.normal(size=(400, 24)) * np.repeat([1.0, 0.4], 12))
    rows = generator.integers(0, 400, 600)
    noise = 3 / np.sqrt(24) * generator.normal(size=(600, 24)) * np.repeat([1.0, 0.08], 12)
    asked, relevant = unit(corpus[rows] + noise), [np.array([row], np.int64) for row in rows]
    found = fit((asked[:300], corpus, relevant[:300], asked[300:], relevant[300:]))
    best = {kind: max(c.dev_mrr for c in found.candidates if c.kind == kind) for kind in ("ridge", "trained")}
    assert best["trained"] > best["ridge"]


@pytest.mark.parametrize("seed", range(5))
def test_identity_wins_if_all_labels_are_noise(seed: int) -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated(seed=seed)
    generator = np.random.default_rng(seed)
    shuffled = [relevant[row] for row in generator.permutation(len(relevant))]
    dev_shuffled = [dev_relevant[row] for row in generator.permutation(len(dev_relevant))]
    found = fit((queries, corpus, shuffled, dev, dev_shuffled))
    assert found.chosen.kind == "identity"
    assert found.chosen is found.candidates[0]
    np.testing.assert_array_equal(found.matrix, np.eye(24))


def test_identity_wins_if_only_training_labels_are_noise() -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated(noise=0.1)
    shuffled = [relevant[row] for row in np.random.default_rng(0).permutation(len(relevant))]
    assert fit((queries, corpus, shuffled, dev, dev_relevant)).chosen.kind == "identity"


def test_every_setting_is_in_the_table_and_runs_are_reproducible() -> None:
    settings = {"ridges": (10.0, 100.0), "l2_weights": (0.3, 0.03), "alphas": (0.25, 0.5), "steps": 4}
    first, second = fit(rotated(), **settings), fit(rotated(), **settings)
    table = [(c.kind, c.strength, c.steps, c.alpha) for c in first.candidates]
    assert table[:5] == [
        ("identity", 0.0, 0, 0.0),
        ("ridge", 10.0, 0, 1.0),
        ("ridge", 100.0, 0, 1.0),
        ("trained", 0.3, 4, 1.0),
        ("trained", 0.03, 8, 1.0),
    ]
    whole = max(first.candidates[1:5], key=lambda candidate: candidate.dev_mrr)
    assert table[5:] == [(whole.kind, whole.strength, whole.steps, alpha) for alpha in (0.25, 0.5)]
    assert first.candidates == second.candidates
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_alpha_interpolates_between_identity_and_matrix() -> None:
    # A ridge that is far too weak for 20 queries overshoots, and an alpha below 1 is better.
    queries, corpus, relevant, dev, dev_relevant = rotated()
    few = (queries[:20], corpus, relevant[:20], dev, dev_relevant)
    whole, some = (fit(few, ridges=(0.01,), l2_weights=(), alphas=alphas) for alphas in ((), (0.5,)))
    assert (whole.chosen.alpha, some.chosen.alpha) == (1.0, 0.5)
    np.testing.assert_allclose(some.matrix, (np.eye(24) + whole.matrix) / 2, atol=1e-6)


def test_strong_regularisation_stays_near_the_identity() -> None:
    problem = rotated()
    far, near = (fit(problem, ridges=(), l2_weights=(weight,), steps=40).matrix for weight in (0.01, 30.0))
    identity = np.eye(24)
    assert np.linalg.norm(far - identity) > 3 * np.linalg.norm(near - identity) > 0


def test_queries_without_positives_are_ignored() -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated()
    none = np.empty(0, np.int64)
    more = (np.concatenate([queries, queries[:5]]), corpus, [*relevant, *[none] * 5], dev, dev_relevant)
    with_dev = (*more[:3], np.concatenate([dev, dev[:5]]), [*dev_relevant, *[none] * 5])
    np.testing.assert_array_equal(fit(more).matrix, fit((queries, corpus, relevant, dev, dev_relevant)).matrix)
    np.testing.assert_array_equal(fit(with_dev).matrix, fit(more).matrix)


@pytest.mark.parametrize("part", ["train", "dev"])
def test_without_queries_the_identity_is_returned(part: str, caplog: pytest.LogCaptureFixture) -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated()
    empty = queries[:0]
    problem: Problem = (
        (empty, corpus, [], dev, dev_relevant) if part == "train" else (queries, corpus, relevant, empty, [])
    )
    found = fit(problem)
    assert found.chosen.kind == "identity"
    assert "stay unchanged" in caplog.text


def test_candidates_are_compared_on_a_sample_of_dev() -> None:
    problem = rotated()
    found = fit(problem, dev_queries=50)
    assert found.chosen.kind != "identity"
    # The difference is over all of dev, the table over 50 dev queries.
    assert found.difference.wins + found.difference.ties + found.difference.losses == 300
    assert found.candidates[0].dev_mrr != pytest.approx(mrr(problem[3], problem[1], problem[4]), abs=1e-9)


def test_ties_count_against_a_candidate() -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated()
    # Every document occurs twice, so the positive is always tied for its rank.
    found = fit((queries, np.concatenate([corpus, corpus]), relevant, dev, dev_relevant))
    assert max(candidate.dev_mrr for candidate in found.candidates) <= 0.5


def test_mismatched_inputs_are_refused() -> None:
    queries, corpus, relevant, dev, dev_relevant = rotated()
    broken = queries.copy()
    broken[0, 0] = np.nan
    for problem, message in (
        ((queries[:, :-1], corpus, relevant, dev, dev_relevant), "do not fit"),
        ((queries, corpus, relevant[:-1], dev, dev_relevant), "positives of 299"),
        ((queries, corpus, relevant, dev, dev_relevant[:-1]), "positives of 299"),
        ((queries, corpus, [np.array([400]), *relevant[1:]], dev, dev_relevant), "not a row of the 400"),
        ((queries, corpus, [np.array([-1]), *relevant[1:]], dev, dev_relevant), "not a row of the 400"),
        ((broken, corpus, relevant, dev, dev_relevant), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(problem)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("temperature", -1.0),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("nearest", 0),
        ("dev_queries", 0),
        ("whole_corpus", -1),
        ("ridges", (1.0, 0.0)),
        ("l2_weights", (-0.1,)),
        ("alphas", (0.0,)),
        ("alphas", (0.5, 1.0)),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(TrainingError, match=f"linear setting {name} is"):
        replace(LinearAdapterSettings(), **{name: value})
    with pytest.raises(TrainingError, match="ridges"):
        LinearAdapterSettings(ridges=(), l2_weights=())
