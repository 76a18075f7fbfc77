from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import _Clusters, choose
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.stats.groups import number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import standard_error

DENSE = Structure("base", "convex", ("dense",), ((1.0,),), (1.0,))
TUNED = Structure("tuned", "convex", ("dense",), ((1.0,),), (1.0,))
GRID = ((0.8, 0.2), (0.9, 0.1), (0.6, 0.4), (0.5, 0.5))
HYBRID = Structure("base", "convex", ("dense", "bm25"), GRID, (0.8, 0.2))
LATE = Structure("base", "convex", ("dense", "late"), ((0.5, 0.5),), (0.5, 0.5))


def candidate(structure: Structure, *rows: list[float]) -> Candidate:
    return Candidate(structure, np.array(rows))


def noise(seed: int, rows: int, queries: int = 200) -> np.ndarray:
    """Reciprocal ranks of systems that are equally good, most of them the same for all."""
    generator = np.random.default_rng(seed)
    ranks = generator.integers(1, 8, queries)
    changed = generator.random((rows, queries)) < 0.2
    return 1 / np.where(changed, generator.integers(1, 8, (rows, queries)), ranks)


def test_dearer_system_needs_more_than_one_standard_error() -> None:
    base = [0.5] * 10
    # One query of ten gains .5: .05 +- .05, which is not more than one standard error.
    assert choose([candidate(DENSE, base), candidate(LATE, [1.0, *base[1:]])]).candidate.structure == DENSE
    # Four gain .5: .2 +- .08.
    chosen = choose([candidate(DENSE, base), candidate(LATE, [1.0] * 4 + base[4:])])
    assert chosen.candidate.structure == LATE
    assert chosen.means == {"base": 0.5, "base + late interaction, convex": 0.7}
    # The four are of one group, and all others of another: .2 +- .24.
    grouped = choose([candidate(DENSE, base), candidate(LATE, [1.0] * 4 + base[4:])], groups=[*["a"] * 4, *["b"] * 6])
    assert grouped.candidate.structure == DENSE


def test_better_system_of_equal_cost_is_chosen() -> None:
    base, tuned = [0.5] * 10, [*[0.5] * 9, 1.0]
    for order in (1, -1):
        pair = [candidate(DENSE, base), candidate(TUNED, tuned)][::order]
        assert choose(pair).candidate.structure == TUNED


def test_weights_nearest_to_neutral_within_half_a_standard_error() -> None:
    # The last row has the highest mean, by .0125 +- .0284 over the third.
    third, last = [1.0] * 18 + [0.5, 0.75], [1.0] * 17 + [0.5, 1.0, 1.0]
    rows = [0.5] * 20, [0.5] * 20, third, last
    chosen = choose([candidate(HYBRID, *rows)])
    assert np.mean(last) - np.mean(third) == pytest.approx(0.0125)
    assert chosen.settings.weights == {"dense": 0.6, "bm25": 0.4}
    # By .025 +- .025 it is more than half a standard error.
    better = [1.0] * 18 + [1.0, 0.75]
    assert choose([candidate(HYBRID, *rows[:3], better)]).settings.weights == {"dense": 0.5, "bm25": 0.5}


def test_nested_estimate_measures_on_queries_that_were_not_chosen_on() -> None:
    # Each of five structures of equal cost is perfect on one fifth of the queries.
    alike = [Structure("base", "convex", ("dense",), ((1.0,),), (1.0,)) for _ in range(2)]
    values = np.zeros((2, 40))
    values[0, ::2], values[1, 1::2] = 1.0, 1.0
    chosen = choose([candidate(one, list(row)) for one, row in zip(alike, values, strict=True)])
    assert chosen.values.mean() == 0.5
    # The folds of four fifths prefer what is better there, and so worse on the rest, unless both are equal.
    assert chosen.nested.mean() <= 0.5


def test_nested_estimate_of_noise_is_unbiased() -> None:
    gains, naive = [], []
    for seed in range(60):
        values = noise(seed, rows=41)
        same = [candidate(DENSE, list(row)) for row in values]
        chosen = choose(same, seed=seed)
        gains.append(chosen.nested.mean() - values.mean())
        naive.append(chosen.values.mean() - values.mean())
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert abs(np.mean(gains)) < 3 * error
    assert np.mean(naive) > 10 * error  # the mean of the winner is far too high


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_errors_of_many_means_are_those_of_each(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = number_groups(generator.integers(0, 9, 40), 40)
    differences = generator.normal(0, 1, (3, 40))
    expected = [standard_error(one, labels) for one in differences]
    assert _Clusters(labels).errors(differences) == pytest.approx(expected)


def test_few_groups() -> None:
    pair = [candidate(DENSE, [0.5, 0.5]), candidate(LATE, [1.0, 1.0])]
    assert choose(pair, groups=["a", "a"]).candidate.structure == DENSE
    assert choose(pair, groups=["a", "b"]).candidate.structure == LATE


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_order_of_queries_and_names_of_groups_do_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = noise(seed, rows=6, queries=50)
    groups = generator.integers(0, 20, 50)
    order = generator.permutation(50)

    def chosen(columns: np.ndarray, labels: np.ndarray) -> tuple[str, int]:
        made = [
            candidate(DENSE, list(columns[0])),
            Candidate(HYBRID, columns[1:5]),
            candidate(LATE, list(columns[5])),
        ]
        found = choose(made, groups=labels)
        return found.candidate.structure.name, found.row

    assert chosen(values, groups) == chosen(values[:, order], 100 - groups[order])


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_useless_leg_does_not_change_the_choice(seed: int) -> None:
    """A dearer system of the same quality is not chosen, and the choice stays within one standard error."""
    values = noise(seed, rows=2, queries=80)
    dense, late = candidate(DENSE, list(values[0])), candidate(LATE, list(values[1]))
    useless = Structure("base", "convex", ("dense", "late", "bm25"), ((0.4, 0.4, 0.2),), (0.4, 0.4, 0.2))
    before = choose([dense, late])
    after = choose([dense, late, candidate(useless, list(values[1]))])
    assert after.candidate.structure == before.candidate.structure
    # Noise added to the values of the chosen system is accepted only above one standard error.
    shuffled = before.values[np.random.default_rng(seed).permutation(80)]
    worse = choose([dense, late, candidate(useless, list(shuffled))])
    if worse.candidate.structure != before.candidate.structure:
        gain = shuffled - before.values
        assert gain.mean() > gain.std(ddof=1) / np.sqrt(80)
