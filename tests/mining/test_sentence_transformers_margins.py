"""The margins keep the same negatives as `sentence_transformers.util.mine_hard_negatives`."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_options import plain
from sentence_transformers.util import mine_hard_negatives

from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.sources import DenseSource

DOCUMENTS = 12


class Vectors:
    """A model with given vectors, as `mine_hard_negatives` needs it."""

    device = torch.device("cpu")
    truncate_dim = None

    def __init__(self, queries: np.ndarray, corpus: np.ndarray) -> None:
        self.queries, self.corpus = queries, corpus

    def encode_query(self, texts: list[str], **_: object) -> np.ndarray:
        return self.queries[[int(text.removeprefix("q")) for text in texts]]

    def encode_document(self, texts: list[str], **_: object) -> np.ndarray:
        return self.corpus[[int(text.removeprefix("d")) for text in texts]]

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    @staticmethod
    def similarity_pairwise(one: np.ndarray, other: np.ndarray) -> torch.Tensor:
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=1)


def unit_rows(generator: np.random.Generator, count: int) -> np.ndarray:
    rows = generator.standard_normal((count, 3)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kept_by_theirs(queries: np.ndarray, corpus: np.ndarray, positives: list[int], **options: object) -> list[set[int]]:
    pairs = {"anchor": [f"q{n}" for n in range(len(queries))], "positive": [f"d{row}" for row in positives]}
    texts = [f"d{row}" for row in range(len(corpus))]
    with contextlib.redirect_stderr(io.StringIO()):
        rows = mine_hard_negatives(
            Dataset.from_dict(pairs),
            Vectors(queries, corpus),  # type: ignore[arg-type]
            corpus=texts,
            num_negatives=DOCUMENTS - 1,
            range_max=DOCUMENTS - 1,
            sampling_strategy="top",
            output_format="triplet",
            verbose=False,
            **options,  # type: ignore[arg-type]
        ).to_list()
    kept: list[set[int]] = [set() for _ in queries]
    for row in rows:
        kept[int(row["anchor"][1:])].add(int(row["negative"][1:]))
    return kept


def kept_by_ours(queries: np.ndarray, corpus: np.ndarray, positives: list[int], **options: object) -> list[set[int]]:
    mined = mine_negatives(
        query_vectors=queries,
        corpus_vectors=corpus,
        relevant=[np.array([row]) for row in positives],
        sources=[DenseSource(queries, corpus)],
        count=DOCUMENTS,
        settings=plain(near_duplicate=1.0001, range_max=DOCUMENTS, **options),
    )
    return [{negative.row for negative in negatives} for negatives in mined.negatives]


@pytest.mark.parametrize("name", ["relative_margin", "absolute_margin"])
@given(seed=st.integers(0, 2**32 - 1), margin=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.95]))
@settings(max_examples=12)
def test_same_margin_keeps_same_negatives(name: str, seed: int, margin: float) -> None:
    generator = np.random.default_rng(seed)
    queries, corpus = unit_rows(generator, 4), unit_rows(generator, DOCUMENTS)
    positives = generator.choice(DOCUMENTS, 4, replace=False).tolist()
    assert kept_by_ours(queries, corpus, positives, **{name: margin}) == kept_by_theirs(
        queries, corpus, positives, **{name: margin}
    )


def test_default_margin_keeps_negatives_five_percent_below_the_positive() -> None:
    angles = np.arccos([0.80, 0.79, 0.77, 0.75, 0.40])
    corpus = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float32)
    query = np.array([[1, 0, 0]], np.float32)
    assert kept_by_ours(query, corpus, [0], relative_margin=0.05) == [{3, 4}]
    assert kept_by_ours(query, corpus, [0], relative_margin=0.95) == [set()]
