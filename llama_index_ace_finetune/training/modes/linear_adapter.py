"""Fit a linear adapter on the query vectors, in seconds, from cached vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference, paired_difference
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.own_documents import without_own
from llama_index_ace_finetune.training.losses.full_corpus import (
    PADDING,
    full_corpus_loss,
    nearest_part,
    nearest_rows,
    pad_rows,
    places_in,
)

logger = logging.getLogger(__name__)

Kind = Literal["identity", "ridge", "trained"]

DEPTH = 10
_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class LinearAdapterSettings:
    """What `fit_query_adapter` tries and how it trains.

    Attributes:
        ridges: strengths lambda of the ridge solutions that are tried.
        l2_weights: weights of ||W - I||^2 in the loss, strongest first; each stage starts from the previous one.
        steps: optimiser steps per stage.
        alphas: how far to go from the identity (0) to the best matrix (1), beside the whole way.
        temperature: divisor of the cosines in the softmax.
        learning_rate: of Adam at the start of each stage; it falls to a tenth.
        batch_size: queries per step.
        whole_corpus: largest corpus whose documents are all candidates in each step. In a larger one the candidates are
            the nearest documents and the positives of the queries of the batch (see `nearest_part`).
        nearest: documents that each query adds to that part.
        dev_queries: candidates are compared on at most N of them; the winner and the identity on all.
        seed: of the batches.
    """

    ridges: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0, 300.0)
    l2_weights: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    steps: int = 15
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75)
    temperature: float = 0.03
    learning_rate: float = 2e-3
    batch_size: int = 512
    whole_corpus: int = 5_000
    nearest: int = 16
    dev_queries: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "temperature", "learning_rate", "batch_size", "nearest", "dev_queries"):
            self._require(getattr(self, name) > 0, name, "greater than 0")
        self._require(self.whole_corpus >= 0, "whole_corpus", "0 or more")
        for name in ("ridges", "l2_weights"):
            self._require(all(value > 0 for value in getattr(self, name)), name, "greater than 0, each of them")
        self._require(bool(self.ridges or self.l2_weights), "ridges", "given if there are no l2_weights")
        self._require(all(0 < alpha < 1 for alpha in self.alphas), "alphas", "between 0 and 1, each of them")

    def _require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise TrainingError(f"The linear setting {name} is {getattr(self, name)!r}; it must be {rule}.")


@dataclass(frozen=True, slots=True)
class LinearAdapterCandidate:
    """One matrix that was tried, and its MRR@10 on dev.

    `strength` is lambda of a ridge solution and the pull of a trained matrix; `steps` counts from the first stage.
    """

    kind: Kind
    strength: float
    steps: int
    alpha: float
    dev_mrr: float


@dataclass(frozen=True)
class LinearAdapterFit:
    """What `fit_query_adapter` found.

    Attributes:
        matrix: float32 [d, d]; the new query vector is normalize(matrix @ query vector).
        chosen: what `matrix` is; the identity if nothing was significantly better.
        candidates: all that were tried, in order, the identity first.
        difference: of the best candidate to the identity in MRR@10, on all dev queries.
        dev_mrr: MRR@10 of the best candidate on each dev query with a positive, float64 [k].
    """

    matrix: NDArray[np.float32]
    chosen: LinearAdapterCandidate
    candidates: tuple[LinearAdapterCandidate, ...]
    difference: PairedDifference
    dev_mrr: NDArray[np.float64]


def fit_query_adapter(
    query_vectors: NDArray[np.float32],
    document_vectors: NDArray[np.float32],
    relevant: Sequence[NDArray[np.int64]],
    *,
    dev_queries: NDArray[np.float32],
    dev_relevant: Sequence[NDArray[np.int64]],
    settings: LinearAdapterSettings | None = None,
    own: NDArray[np.int64] | None = None,
    dev_own: NDArray[np.int64] | None = None,
    weights: NDArray[np.float32] | None = None,
) -> LinearAdapterFit:
    """Learn a matrix that moves each query vector toward its positives; document vectors are unchanged.

    Ridge solutions come first; softmax cross-entropy over the corpus starts from the best of them, with an L2
    penalty toward the identity that decreases by stage; then interpolations (alpha) between the identity and the best
    are tried. The best candidate on dev is returned if the 95% interval of its gain in MRR@10 (resampled by first
    positive) is above zero with p <= 0.05, else the identity.

    Args:
        query_vectors: float [n, d], unit rows.
        document_vectors: float [m, d], unit rows.
        relevant: rows of the positives of each query; queries without any are ignored.
        dev_queries: float [k, d], unit rows, on which the candidates are compared.
        dev_relevant: rows of the positives of each dev query.
        settings: the candidates and hyperparameters.
        own: row of the document that is the query itself, int64 [n], -1 without one; it is neither positive nor
            negative.
        dev_own: that of each dev query, int64 [k]; it is not ranked.
        weights: of the queries, float32 [n], above 0; None if they are equal.

    Raises:
        ValueError: if shapes do not fit or a vector holds NaN or infinity.
    """
    settings = settings or LinearAdapterSettings()
    _check(query_vectors, document_vectors, relevant)
    _check(dev_queries, document_vectors, dev_relevant)
    identity = np.eye(document_vectors.shape[1], dtype=np.float32)
    answered = [place for place, rows in enumerate(relevant) if len(rows)]
    asked = [place for place, rows in enumerate(dev_relevant) if len(rows)]
    if not answered or not asked:
        logger.warning("no training or no dev query has a positive, so the query vectors stay unchanged")
        none = LinearAdapterCandidate("identity", 0.0, 0, 0.0, 0.0)
        return LinearAdapterFit(identity, none, (none,), paired_difference(np.empty(0), np.empty(0)), np.empty(0))
    dev_queries, dev_relevant = dev_queries[asked], [dev_relevant[place] for place in asked]
    documents = torch.from_numpy(np.ascontiguousarray(document_vectors, np.float32))
    queries = torch.from_numpy(np.ascontiguousarray(query_vectors[answered], np.float32))
    dev_own = None if dev_own is None else dev_own[asked]
    judge = _Candidates(dev_queries, dev_relevant, documents, settings, own=dev_own)
    positive_rows = pad_rows([relevant[place] for place in answered])
    targets = torch.stack([documents[rows[rows != PADDING]].mean(dim=0) for rows in positive_rows])
    of_query = None if weights is None else torch.from_numpy(weights[answered])
    # Rows times the root of their weights have weighted squared errors.
    root = 1.0 if of_query is None else of_query.sqrt()[:, None]
    for strength in settings.ridges:
        judge.add(ridge_matrix(queries * root, targets * root, strength), "ridge", strength, 0)
    start = judge.matrices[judge.best()]
    own_rows = None if own is None else torch.from_numpy(own[answered])
    for strength, steps, matrix in _stages(start, queries, documents, positive_rows, settings, own_rows, of_query):
        judge.add(matrix, "trained", strength, steps)
    whole = judge.best(start=1)
    found, matrix = judge.candidates[whole], judge.matrices[whole]
    for alpha in settings.alphas:
        part = torch.lerp(judge.matrices[0], matrix, alpha)
        judge.add(part, found.kind, found.strength, found.steps, alpha)
    return _decide(judge, dev_queries, document_vectors, dev_relevant, own=dev_own)


def ridge_matrix(queries: Tensor, targets: Tensor, strength: float) -> Tensor:
    """Return the W, float32 [d, d], that minimises ||Q W' - D||^2 + strength ||W - I||^2 (Frobenius norms).

    Its transpose is (Q'Q + strength I)^-1 (Q'D + strength I): ridge regression shrunk to the identity, not to zero.

    Args:
        queries: Q, float [n, d].
        targets: D, float [n, d].
        strength: greater than 0.
    """
    queries, targets = queries.double(), targets.double()
    pull = strength * torch.eye(queries.shape[1], dtype=torch.float64)
    transposed: Tensor = torch.linalg.solve(queries.T @ queries + pull, queries.T @ targets + pull)
    return transposed.T.float().contiguous()


def _stages(
    start: Tensor,
    queries: Tensor,
    documents: Tensor,
    positive_rows: Tensor,
    settings: LinearAdapterSettings,
    own_rows: Tensor | None,
    weights: Tensor | None,
) -> Iterator[tuple[float, int, Tensor]]:
    """Train by Adam on batches; yield (pull, steps so far, matrix) at the end of each stage."""
    identity = torch.eye(documents.shape[1])
    weight = nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([weight], betas=(0.9, 0.99))
    near = None
    if len(documents) > settings.whole_corpus:
        near = nearest_rows(nn.functional.normalize(queries @ start.T), documents, settings.nearest)
    batches = _batches(len(queries), settings)
    for stage, pull in enumerate(settings.l2_weights):
        for step in range(settings.steps):
            batch = next(batches)
            rows, part = positive_rows[batch], documents
            own = None if own_rows is None else own_rows[batch]
            if near is not None:
                part_rows, rows = nearest_part(near[batch], rows)
                part = documents[part_rows]
                own = None if own is None else places_in(part_rows, own)
            moved = nn.functional.normalize(queries[batch] @ weight.T)
            loss = full_corpus_loss(
                moved,
                part,
                rows,
                temperature=settings.temperature,
                own_rows=own,
                weights=None if weights is None else weights[batch],
            )
            loss = loss + pull * (weight - identity).square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * (1 - 0.9 * step / settings.steps)
            optimiser.step()
        yield pull, (stage + 1) * settings.steps, weight.detach().clone()


def _batches(count: int, settings: LinearAdapterSettings) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        # What is left over after whole batches comes up in another pass.
        yield from torch.split(order[: count // size * size], size)


class _Candidates:
    """Keeps the candidates' dev scores and their matrices; the identity is the first of them."""

    def __init__(
        self,
        queries: NDArray[np.float32],
        relevant: Sequence[NDArray[np.int64]],
        documents: Tensor,
        settings: LinearAdapterSettings,
        *,
        own: NDArray[np.int64] | None = None,
    ) -> None:
        order = np.random.default_rng(settings.seed).permutation(len(queries))
        chosen = np.sort(order[: settings.dev_queries])
        self._queries = torch.from_numpy(np.ascontiguousarray(queries[chosen], np.float32))
        self._positive_rows = pad_rows([relevant[place] for place in chosen.tolist()])
        own = np.full(len(queries), PADDING, np.int64) if own is None else own
        self._own_rows = torch.from_numpy(own[chosen])
        self._documents = documents
        self.candidates: list[LinearAdapterCandidate] = []
        self.matrices: list[Tensor] = []
        self.add(torch.eye(documents.shape[1]), "identity", 0.0, 0, 0.0)

    def add(self, matrix: Tensor, kind: Kind, strength: float, steps: int, alpha: float = 1.0) -> None:
        """Score a candidate, which `matrix` is with its alpha in it."""
        self.candidates.append(LinearAdapterCandidate(kind, strength, steps, alpha, self._mrr(matrix)))
        self.matrices.append(matrix)

    def best(self, *, start: int = 0) -> int:
        """The place of the best candidate from `start` on; of equal ones the first."""
        return max(range(start, len(self.candidates)), key=lambda place: (self.candidates[place].dev_mrr, -place))

    def _mrr(self, matrix: Tensor) -> float:
        """MRR@10, equal scores counted against the candidate."""
        total = 0.0
        size = max(1, _SCORES_AT_ONCE // len(self._documents))
        parts = (torch.split(held, size) for held in (self._queries, self._positive_rows, self._own_rows))
        for queries, rows, own in zip(*parts, strict=True):
            scores = queries @ matrix.T @ self._documents.T
            of_query = torch.nonzero(own != PADDING, as_tuple=True)[0]
            scores[of_query, own[of_query]] = -torch.inf
            right = scores.gather(1, rows.clamp(min=0)).masked_fill_(rows == PADDING, -torch.inf)
            ranks = (scores >= right.amax(dim=1, keepdim=True)).sum(dim=1)
            total += float(torch.where(ranks <= DEPTH, 1 / ranks, 0.0).sum())
        return total / len(self._queries)


def _decide(
    judge: _Candidates,
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    relevant: Sequence[NDArray[np.int64]],
    *,
    own: NDArray[np.int64] | None,
) -> LinearAdapterFit:
    """Hold the best candidate against the identity on all dev queries, with the measure of the reports."""
    measure = MRR(DEPTH)

    def values(matrix: Tensor) -> NDArray[np.float64]:
        rankings, _ = dense_top_k(queries @ matrix.numpy().T, documents, DEPTH + 1)
        return per_query(measure, without_own(rankings, own, limit=DEPTH)[0], relevant)

    best = judge.best()
    base = values(judge.matrices[0])
    ours = values(judge.matrices[best]) if best else base
    difference = paired_difference(ours, base, groups=[str(int(rows[0])) for rows in relevant])
    place = best if difference.is_gain else 0
    candidates = tuple(judge.candidates)
    return LinearAdapterFit(judge.matrices[place].numpy(), candidates[place], candidates, difference, ours)


def _check(queries: NDArray[np.float32], documents: NDArray[np.float32], relevant: Sequence[NDArray[np.int64]]) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(f"query vectors {queries.shape} and document vectors {documents.shape} do not fit")
    if len(queries) != len(relevant):
        raise ValueError(f"there are {len(queries)} query vectors and positives of {len(relevant)} queries")
    if any(len(rows) and (min(rows) < 0 or max(rows) >= len(documents)) for rows in relevant):
        raise ValueError(f"a positive is not a row of the {len(documents)} documents")
    if not (np.isfinite(queries).all() and np.isfinite(documents).all()):
        raise ValueError("vectors hold NaN or infinity")
