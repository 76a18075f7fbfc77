"""The similarity join finds exactly the pairs that brute force finds."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.splits import near_duplicates as module
from llama_index_ace_finetune.datasets.splits.near_duplicates import MIN_WORDS, near_duplicate_pairs, words


def _pairs(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    return {(i, j) for chunk in near_duplicate_pairs(texts, threshold) for i, j in chunk.tolist()}


def _all_with_all(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    """Weighted Jaccard of the distinct word sets, each pair in turn."""
    sets = {i: words(text) for i, text in enumerate(texts)}
    first = {key: i for i, key in reversed(sets.items())}
    long = {key: i for key, i in first.items() if len(key) >= MIN_WORDS}
    count = Counter(word for key in long for word in key)
    weight = {word: math.log1p(len(long) / n) for word, n in count.items()}
    found = set()
    for a, b in combinations(long, 2):
        shared = sum(weight[w] for w in a & b)
        if shared >= threshold * sum(weight[w] for w in a | b) - 1e-9:
            found.add((min(long[a], long[b]), max(long[a], long[b])))
    return found


_SENTENCE = st.lists(st.sampled_from([f"w{n}" for n in range(12)]), min_size=3, max_size=9).map(" ".join)


@pytest.mark.parametrize("chunk", [1, 4_000_000])
@settings(max_examples=100)
@given(texts=st.lists(_SENTENCE, max_size=14), threshold=st.sampled_from([0.5, 0.7, 0.8, 0.95]))
def test_equals_brute_force(chunk: int, texts: list[str], threshold: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CANDIDATES_PER_CHUNK", chunk)
        found = _pairs(texts, threshold)
    equal = {pair for pair in found if words(texts[pair[0]]) == words(texts[pair[1]])}
    assert found - equal == _all_with_all(texts, threshold)
    # Equal word sets form chains: n texts of one set give n - 1 pairs.
    sizes = Counter(words(text) for text in texts)
    assert len(equal) == sum(n - 1 for n in sizes.values())


_COMMON = [
    "when implementing a feature, how should i handle " + word for word in ("reset", "logging", "groups", "names")
]


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("how do i define", "how do i design", False),
        ("how do i define", "how do i define schema", False),
        ("restart the nightly indexing job after a crash", "restart the nightly indexing job after the crash", True),
        ("delete an element from set python", "python delete element from an set", True),
        ("close stdin subprocess python", "python subprocess, close stdin?", True),
        ("set it", "it set", True),
        ("c++", "c", False),
        (_COMMON[0], _COMMON[1], False),
        ("数据库被锁定了怎么办", "打印机被锁定了怎么办", False),
        (
            "数据库连接池被锁定了现在应该怎么办请尽快告诉我们原因",
            "数据库连接池被锁定了现在应该怎么办请尽快告诉我们原因吧",
            True,
        ),
    ],
)
def test_examples(one: str, other: str, near: bool) -> None:
    # Among other questions, as the weight of a word depends on how many have it.
    texts = [
        one,
        other,
        *_COMMON[2:],
        "how do i ship",
        "how do i test",
        "list the open files",
        "count the lines of a file",
    ]
    assert ((0, 1) in _pairs(texts, 0.8)) == near


def test_words() -> None:
    assert words("can't find 'file.txt', (again)!") == {"can't", "find", "file.txt", "again"}
    assert words("?!") == {"?!"}
    assert words("") == frozenset()
    assert words("abc数据库") == {"abc", "数据", "据库"}


def test_many_copies_of_one_text_give_linear_pairs() -> None:
    texts = ["the very same words in every single row"] * 5000
    assert len(_pairs(texts, 0.8)) == 4999


def test_no_texts() -> None:
    assert _pairs([], 0.8) == set()
    assert _pairs([""], 0.8) == set()
    assert _pairs(["one text of five words"], 0.8) == set()
