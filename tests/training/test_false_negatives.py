from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.training.data.batches import MASKED, NEGATIVE, POSITIVE, BatchCollator
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.false_negatives import FalseNegativeMask
from llama_index_ace_finetune.training.losses.masked_ranking import masked_ranking_loss


def at_angle(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def random_examples(rng: np.random.Generator, queries: int, documents: int) -> IndexedExamples:
    relevant = tuple(np.sort(rng.permutation(documents)[: rng.integers(1, 3)]) for _ in range(queries))
    return IndexedExamples(
        query_ids=tuple(map(str, range(queries))),
        queries=tuple(f"q{n}" for n in range(queries)),
        corpus_ids=tuple(map(str, range(documents))),
        corpus=tuple(f"d{n}" for n in range(documents)),
        relevant=relevant,
        negatives=tuple(np.setdiff1d(rng.permutation(documents)[:3], rows) for rows in relevant),
    )


def random_mask(rng: np.random.Generator, examples: IndexedExamples, margin: float) -> FalseNegativeMask:
    def unit(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, 3)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    return FalseNegativeMask(unit(len(examples.queries)), unit(len(examples.corpus)), examples.relevant, margin)


def collator(examples: IndexedExamples, mask: FalseNegativeMask | None) -> BatchCollator:
    def nothing(*_: Any, **__: Any) -> dict[str, Any]:
        return {}

    return BatchCollator(nothing, examples, 2, "", "", false_negatives=mask)


def test_worked_example() -> None:
    # The query is at 0 degrees, its positive at 40: cosine .766, of which 95% are .728.
    documents = at_angle(40, 20, -42, -44, 57, 59)
    mask = FalseNegativeMask(at_angle(0), documents, (np.array([0]),), 0.05)
    # 20 is nearer; -42 has .743, -44 has .719; 57 is 17 degrees (cosine .956) from the positive, 59 is 19.
    assert mask.mask([0], range(6)).tolist() == [[True, True, True, False, True, False]]
    # At 0, only documents nearer than the positive and near-duplicates are masked.
    strict = FalseNegativeMask(at_angle(0), documents, (np.array([0]),), 0.0)
    assert strict.mask([0], range(6)).tolist() == [[True, True, False, False, True, False]]


def test_lowest_of_several_positives_sets_the_limit() -> None:
    documents = at_angle(10, 60, -50, -70)
    mask = FalseNegativeMask(at_angle(0, 0), documents, (np.array([0, 1]), np.array([0])), 0.0)
    assert mask.mask([0, 1], [2, 3]).tolist() == [[True, False], [False, False]]


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.2, 0.05, 0.0, -0.2]))
@settings(max_examples=40)
def test_masks_and_gradients_equal_a_loop(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    examples = random_examples(rng, 6, 12)
    mask = random_mask(rng, examples, margin)
    numbers = rng.permutation(6)[:4].tolist()
    rows, targets = collator(examples, mask).select(numbers)
    cosines = torch.tensor(rng.uniform(-1, 1, targets.shape), dtype=torch.float32)
    ours, theirs = cosines.clone().requires_grad_(), cosines.clone().double().requires_grad_()
    terms = []
    for position, number in enumerate(numbers):
        positives = examples.relevant[number].tolist()
        query = mask.query_vectors[number].astype(float)
        least = min(float(query @ mask.document_vectors[row]) for row in positives)
        negatives = []
        for column, row in enumerate(rows):
            document = mask.document_vectors[row].astype(float)
            suspected = float(query @ document) > least - abs(least) * margin or any(
                float(mask.document_vectors[other].astype(float) @ document) >= 0.95 for other in positives
            )
            expected = POSITIVE if row in positives else MASKED if suspected else NEGATIVE
            assert targets[position, column] == expected
            if expected == NEGATIVE:
                negatives.append(theirs[position, column])
        for column, row in enumerate(rows):
            if row in positives:
                scores = torch.stack([theirs[position, column], *negatives]) / 0.1
                terms.append(-scores.log_softmax(dim=0)[0] / len([r for r in rows if r in positives]))
    torch.stack(terms).sum().div(len(numbers)).backward()
    masked_ranking_loss(ours, torch.from_numpy(targets), temperature=0.1).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad - theirs.grad).abs().max() < 1e-5 / 0.1
    assert not ours.grad[torch.from_numpy(targets == MASKED)].any()


@pytest.mark.parametrize("seed", range(5))
def test_mask_without_suspects_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples = random_examples(rng, 6, 12)
    mask = random_mask(rng, examples, -1e9)
    # Only positive cosines, so that the limit is above all of them.
    for vectors in (mask.query_vectors, mask.document_vectors):
        np.abs(vectors, out=vectors)
    mask = FalseNegativeMask(mask.query_vectors, mask.document_vectors, examples.relevant, -1e9, near_duplicate=1.1)
    masked, without = (collator(examples, one).select([0, 1, 2, 3, 4, 5]) for one in (mask, None))
    assert masked[0] == without[0]
    assert (masked[1] == without[1]).all()
