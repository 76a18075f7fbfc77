"""Decide on dev whether synthetic queries are trained on beside those of users."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.groups import number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import standard_error
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.modes.linear_adapter import fit_query_adapter

logger = logging.getLogger(__name__)

RULE = (
    "Synthetic queries are trained on if the linear query adapter fitted with them has a higher MRR@10 on dev than the "
    "one fitted without them, by more than one standard error."
)


@dataclass(frozen=True, slots=True)
class SyntheticChoice:
    """Whether synthetic queries are trained on, and why.

    Attributes:
        count: number of synthetic queries.
        used: whether they are trained on.
        with_them: MRR@10 on dev of the linear query adapter fitted with them; None if it was not fitted: without dev
            queries they are left out, and where the others are too few they are used.
        without: the same of the one fitted without them.
        standard_error: of the difference, queries with the same positive in one cluster.
    """

    count: int
    used: bool
    with_them: float | None = None
    without: float | None = None
    standard_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "count": self.count,
            "used": self.used,
            "dev_mrr_with": self.with_them,
            "dev_mrr_without": self.without,
            "standard_error": self.standard_error,
            "rule": RULE,
        }

    def __str__(self) -> str:
        verdict = "used" if self.used else "left out"
        if self.with_them is None or self.without is None:
            why = "there are too few other training queries" if self.used else "there are no dev queries to decide on"
            return f"{self.count} synthetic queries {verdict}: {why}"
        return (
            f"{self.count} synthetic queries {verdict}: a linear adapter has dev MRR@10 {self.with_them:.3f} with them "
            f"and {self.without:.3f} without (standard error {self.standard_error:.3f})"
        )


def choose_synthetic(context: TrainingContext, *, at_least: int) -> tuple[TrainingContext, SyntheticChoice | None]:
    """Return the context with or without its synthetic queries, and the decision; None if there is nothing to decide.

    Both candidates are linear query adapters over the same vectors of the base, so the decision takes seconds. What is
    best for them need not be best for the other modes, whose results are compared with the base on dev in any case.
    Without dev queries nothing is decided, and they are left out.

    Args:
        context: with queries of users, and synthetic ones if there are any.
        at_least: number of queries of users from which training without the synthetic ones is possible.
    """
    synthetic = context.examples.synthetic
    if synthetic is None:
        return context, None
    count, real = int(synthetic.sum()), np.flatnonzero(~synthetic)
    if context.dev is None:
        choice = SyntheticChoice(count, used=False)
    elif len(real) < at_least:
        choice = SyntheticChoice(count, used=True)
    else:
        ours = _dev_mrr(context, np.arange(len(synthetic)))
        theirs = _dev_mrr(context, real)
        difference = ours - theirs
        error = standard_error(difference, number_groups(context.dev.groups, len(context.dev.groups)))
        used = float(difference.mean()) > error
        choice = SyntheticChoice(count, used, float(ours.mean()), float(theirs.mean()), error)
    logger.info("%s", choice)
    return (context if choice.used else _with_queries(context, real)), choice


def _dev_mrr(context: TrainingContext, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """MRR@10 per dev query of the best linear adapter that is fitted on these training queries."""
    assert context.dev is not None
    examples, dev = context.examples, context.dev.examples
    weights = query_weights(examples, context.config.synthetic_weight)
    return fit_query_adapter(
        context.query_vectors[rows],
        context.document_vectors,
        [examples.relevant[row] for row in rows],
        dev_queries=context.dev_query_vectors,
        dev_relevant=dev.relevant,
        own=None if examples.own is None else examples.own[rows],
        dev_own=dev.own,
        weights=None if weights is None else weights[rows],
    ).dev_mrr


def _with_queries(context: TrainingContext, rows: NDArray[np.int64]) -> TrainingContext:
    """Return the context with only these training queries; vectors that were computed are kept."""
    examples = context.examples
    known = context.computed
    return replace(
        context,
        examples=replace(
            examples,
            query_ids=tuple(examples.query_ids[row] for row in rows),
            queries=tuple(examples.queries[row] for row in rows),
            relevant=tuple(examples.relevant[row] for row in rows),
            negatives=tuple(examples.negatives[row] for row in rows),
            own=None if examples.own is None else examples.own[rows],
            synthetic=None,
            judged=tuple(examples.judged[row] for row in rows) if examples.judged else (),
        ),
        known=replace(known, query_vectors=None if known.query_vectors is None else known.query_vectors[rows]),
    )
