"""Known queries are used only with an offset that loses next to nothing on new memories and gains on known ones."""

from __future__ import annotations

import numpy as np

from llama_index_ace_finetune.evaluation.choosing.known_queries import choose_offset, choose_weight

NEW = np.array([1.0, 0.5, 0.5, 1.0])
KNOWN = np.array([0.2, 0.5, 0.25, 0.5, 0.25, 0.5])


def test_an_offset_that_lowers_dev_is_never_chosen() -> None:
    new = {None: NEW, 0.3: NEW, 0.1: NEW - [0, 0, 0.01, 0]}
    chosen = choose_offset(new, {None: KNOWN, 0.3: KNOWN + 0.1, 0.1: KNOWN + 0.5})
    assert chosen.offset == 0.3
    assert chosen.known[0.1] > chosen.known[0.3]
    assert "+0.100 MRR@10 on 6 held-out queries" in chosen.reason
    none = choose_offset({None: NEW, 0.1: NEW - 0.1}, {None: KNOWN, 0.1: KNOWN + 0.5})
    assert none.offset is None
    assert none.reason == "every offset lowers MRR@10 on the dev queries by more than 0.002"


def test_a_loss_of_less_than_a_rank_does_not_outweigh_a_gain() -> None:
    new, known = np.tile(NEW, 50), np.tile(KNOWN, 5)
    fallen = new.copy()
    fallen[1] = 1 / 3  # of 200 queries, one falls from rank 2 to rank 3
    assert choose_offset({None: new, 0.1: fallen}, {None: known, 0.1: known + 0.1}).offset == 0.1
    fallen[0] = 0.5  # and another from rank 1 to rank 2
    assert choose_offset({None: new, 0.1: fallen}, {None: known, 0.1: known + 0.1}).offset is None


def test_the_largest_of_equal_offsets_is_chosen_and_a_better_one_before_it() -> None:
    new = dict.fromkeys((None, 0.4, 0.2, 0.1), NEW)
    known = {None: KNOWN, 0.4: KNOWN, 0.2: KNOWN + 0.1, 0.1: KNOWN + 0.1}
    assert choose_offset(new, known).offset == 0.2
    assert choose_offset(new, {**known, 0.1: KNOWN + 0.2}).offset == 0.1


def test_a_gain_within_a_standard_error_is_none() -> None:
    new = dict.fromkeys((None, 0.2), NEW)
    noisy = KNOWN + np.array([0.3, -0.2, 0.0, 0.0, 0.0, 0.0])
    assert choose_offset(new, {None: KNOWN, 0.2: noisy}).offset is None
    # The same gain on queries of one memory says less than on queries of six.
    gain = np.array([0.2, 0.2, 0.2, 0.0, 0.0, 0.0])
    assert choose_offset(new, {None: KNOWN, 0.2: KNOWN + gain}).offset == 0.2
    assert choose_offset(new, {None: KNOWN, 0.2: KNOWN + gain}, groups=["a"] * 3 + ["b"] * 3).offset is None


def test_without_dev_queries_about_new_memories_the_known_ones_decide() -> None:
    empty = dict.fromkeys((None, 0.2), np.zeros(0))
    assert choose_offset(empty, {None: KNOWN, 0.2: KNOWN + 0.1}).offset == 0.2


def test_weight_in_bm25_is_chosen_by_the_same_rule() -> None:
    new = {0: NEW, 1: NEW, 2: NEW + np.array([0, 0, 0.1, 0]), 3: NEW - [0, 0, 0.01, 0]}
    known = {0: KNOWN, 1: KNOWN + 0.1, 2: KNOWN + 0.1, 3: KNOWN + 0.5}
    found = choose_weight(new, known)
    assert found.weight == 1  # of equal ones the smallest, and 3 loses on new memories
    assert list(found.new) == list(found.known) == [0, 1, 2, 3]
    assert found.known[3] == KNOWN.mean() + 0.5
    assert choose_weight(new, {**known, 2: KNOWN + 0.2}).weight == 2
    none = choose_weight(new, {**known, 1: KNOWN + 0.001, 2: KNOWN * [1, 0, 1, 1, 1, 1]})
    assert none.weight == 1  # a gain of every query has no standard error
    lost = choose_weight({0: NEW, 1: NEW - 0.1}, {0: KNOWN, 1: KNOWN + 0.5})
    assert (lost.weight, lost.reason) == (0, "every weight lowers MRR@10 on the dev queries by more than 0.002")
