"""Refit: train the recipe that was selected on dev once more, on the dev queries too, or on all queries."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.config import ModeName, TrainingConfig
from llama_index_ace_finetune.training.context import BaseValues, TrainingContext
from llama_index_ace_finetune.training.data.examples import IndexedExamples, join_examples
from llama_index_ace_finetune.training.loop.budget import DoesNotFitError
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.loop.fit import OnPlan
from llama_index_ace_finetune.training.model_selection.interpolation import copy_weights, load_interpolated
from llama_index_ace_finetune.training.modes.full import train_full
from llama_index_ace_finetune.training.modes.mode import ModeEstimate
from llama_index_ace_finetune.training.modes.result import ModeResult

logger = logging.getLogger(__name__)

# Part of the budget for training and selection: the refit has about a quarter more steps, but no dev evaluations.
_SELECTION_SHARE = 0.45
_REFITTED: Final[tuple[ModeName, ...]] = ("in_batch", "full")


@dataclass(frozen=True, slots=True)
class Refit:
    """What a refit did.

    Attributes:
        queries: train and dev queries, with "all" test queries too, that it was trained on.
        steps: optimiser steps: those of the selected weights, in proportion to the queries.
        alpha: interpolation coefficient of the selected weights, which it has too.
        seconds: that it took.
        retention_loss: fall of MRR@10 on the retention set; None without one.
        not_shipped: why the selected weights ship instead; empty if the refitted ones ship.
        on: "dev" for train and dev queries, "all" for test queries too.
    """

    queries: int
    steps: int
    alpha: float
    seconds: float = 0.0
    retention_loss: float | None = None
    not_shipped: str = ""
    on: Literal["dev", "all"] = "dev"

    @property
    def ships(self) -> bool:
        """Whether the refitted weights ship."""
        return not self.not_shipped

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "ships": self.ships}

    def __str__(self) -> str:
        if self.not_shipped:
            return f"refit: not shipped, the weights selected on dev ship: {self.not_shipped}"
        parts, cannot = {
            "dev": ("train and dev queries", "dev cannot measure them"),
            "all": ("train, dev and test queries", "none of these queries can measure them"),
        }[self.on]
        return (
            f"refit: {self.steps} steps on {self.queries} {parts} in {self.seconds:.0f} s; these weights ship, and "
            f"{cannot}"
        )


def refit_selected(
    context: TrainingContext,
    selected: ModeResult,
    *,
    minutes: float | None,
    on: Literal["dev", "all"] = "dev",
    test: IndexedExamples | None = None,
    asked: bool = True,
    progress: StepProgress | None = None,
    on_plan: OnPlan | None = None,
) -> tuple[ModeResult, IndexedExamples, Refit]:
    """Train the selected mode again from the base, on dev queries too, and return it with the weights that ship.

    It has the steps and the learning rates of the selected weights, in proportion to the number of queries, and their
    alpha. Dev cannot warn any more, so the selected weights ship if the loss is NaN, infinite or diverges, the
    retention set loses more than its bound, or not all steps fit.

    Args:
        context: of the modes, with dev queries.
        selected: the result that ships, which is not the base.
        minutes: that are left of the budget; None without a limit.
        on: what it is called in `Refit`.
        test: the test queries over the same corpus, to train on as well; none by default.
        asked: whether the settings ask for it, so that a refit that does not ship is worth a warning.
        progress: called after each step.
        on_plan: called with the planned steps before the first.

    Returns:
        The result that ships; the examples that its weights were trained on; what was done.
    """
    assert context.dev is not None
    assert selected.selection is not None
    start, alpha = time.perf_counter(), selected.selection.alpha
    everything = join_examples(context.examples, context.dev.examples)
    if test is not None:
        everything = join_examples(everything, test)
    queries = len(everything.queries)
    best, more = best_step(selected.history), queries / len(context.examples.queries)
    steps = max(1, round(best * more))
    scheduled = max(steps, round((selected.scheduled or best) * more))
    refit = Refit(queries=queries, steps=steps, alpha=alpha, on=on)

    def kept(why: str) -> tuple[ModeResult, IndexedExamples, Refit]:
        failed = replace(refit, not_shipped=why, seconds=time.perf_counter() - start)
        logger.log(logging.WARNING if asked else logging.INFO, "%s", failed)
        return selected, context.examples, failed

    mode = next((name for name in _REFITTED if name == selected.name), None)
    if mode is None:
        return kept(f"mode {selected.name!r} needs dev queries to train")
    try:
        trained = train_full(
            _context_of(context, everything),
            minutes=minutes,
            progress=progress,
            on_plan=on_plan,
            name=mode,
            steps=steps,
            scheduled=scheduled,
        )
    except TrainingError as error:
        # The error names queries and paths, which do not belong in a model card.
        logger.warning("refit: %s", error)
        return kept("its loss diverged, or a step failed")
    except DoesNotFitError as error:
        return kept(f"{error}, and {60 * (minutes or 0.0):.0f} s of the budget are left")
    encoder, retention = context.encoder, context.retention
    assert trained.weights is not None
    base = copy_weights(encoder)
    try:
        load_interpolated(encoder, base=base, tuned=trained.weights, alpha=alpha)
        shipped = copy_weights(encoder)
        lost = retention.loss(retention.queries.score(encoder)) if retention else None
    finally:
        encoder.model.load_state_dict(base)
    refit = replace(refit, retention_loss=lost)
    if retention and lost is not None and lost > retention.bound:
        return kept(f"general queries lose {lost:+.3f} of MRR@10, and {retention.bound:g} is allowed")
    refit = replace(refit, seconds=time.perf_counter() - start)
    logger.info("%s", refit)

    def build(model: SentenceTransformer) -> SentenceTransformer:
        model.load_state_dict(shipped)
        return model

    return replace(selected, build=build, weights=shipped), everything, refit


def refit_kind(config: TrainingConfig, modes: Iterable[str], *, measured: bool) -> Literal["none", "dev", "all"]:
    """Return which refit the settings ask for.

    Args:
        config: of the training.
        modes: the selected one, or those of which one will be.
        measured: whether test queries measure the refitted weights, without which "auto" trains nothing again.
    """
    if config.refit != "auto":
        return config.refit
    return "dev" if measured and config.refittable and not set(modes).isdisjoint(_REFITTED) else "none"


def config_for_selection(config: TrainingConfig) -> TrainingConfig:
    """Return the settings for training and selection, which leave a refit that is asked for its part of the budget."""
    if config.refit in ("auto", "none") or config.budget_minutes is None:
        return config
    return replace(config, budget_minutes=_SELECTION_SHARE * config.budget_minutes)


def estimate_refit(
    config: TrainingConfig, modes: Sequence[tuple[str, ModeEstimate]], *, queries: int, train: int
) -> ModeEstimate:
    """Return what a refit on `queries` queries will do, of which `train` are trained on before it.

    Args:
        config: of the whole training.
        modes: name and estimate of each mode that is planned; of the dearest of them it takes as much per query.
        queries: train and dev queries, and with "all" those of test.
        train: train queries.
    """
    dearest = max((one.seconds for name, one in modes if name in _REFITTED), default=0.0)
    if not dearest:
        return ModeEstimate(f"not expected: it needs mode {' or '.join(_REFITTED)}", 0.0)
    seconds = dearest * queries / max(train, 1)
    budget = math.inf if config.budget_minutes is None else 60 * config.budget_minutes
    if config.refit != "auto":
        seconds = min(seconds, budget * (1 - _SELECTION_SHARE))
    elif seconds > budget - sum(one.seconds for _, one in modes):
        return ModeEstimate("not expected: the budget has no time left for it", 0.0)
    return ModeEstimate(f"the selected mode once more, on {queries} queries, where it can be trained so", seconds)


def best_step(history: Sequence[Mapping[str, float]]) -> int:
    """Return the step of the best weights: the first with the highest MRR@10 on dev, the base's evaluation left out."""
    evaluations = [row for row in history if "MRR@10" in row and row["step"] > 0]
    return int(max(evaluations, key=lambda row: row["MRR@10"])["step"])


def _context_of(context: TrainingContext, examples: IndexedExamples) -> TrainingContext:
    """The context with these examples, train and dev queries first, and no dev; what was computed is kept."""
    known = [context.query_vectors, context.dev_query_vectors]
    if rest := examples.queries[sum(map(len, known)) :]:
        known.append(context.encoder.encode_queries(rest, cache=context.cache))
    return replace(
        context,
        examples=examples,
        dev=None,
        general=None,
        checkpoints=context.checkpoints / "refit" if context.checkpoints else None,
        on_phase=lambda name: context.on_phase(f"refit of {name}"),
        known=BaseValues(
            tokens=context.tokens,
            document_vectors=context.document_vectors,
            query_vectors=np.concatenate(known),
        ),
    )
