"""Climb from the cheapest way of tuning to the dearest, within a budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.context import Ground
from llama_index_ace_finetune.training.loop.budget import StepPlan
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.modes.full import climb_full
from llama_index_ace_finetune.training.modes.linear import climb_linear
from llama_index_ace_finetune.training.modes.queries import climb_queries
from llama_index_ace_finetune.training.modes.result import Mode, Rung

logger = logging.getLogger(__name__)

OnRung = Callable[[Rung], None]
OnNext = Callable[[Mode, StepPlan], None]

# Minutes that are left when none are.
_USED_UP = 1e-6
# What the middle rung may take of a budget that the last one shares.
QUERIES_SHARE = 0.2


def climb(
    ground: Ground,
    *,
    progress: StepProgress | None = None,
    on_rung: OnRung | None = None,
    on_next: OnNext | None = None,
) -> list[Rung]:
    """Climb the rungs that `ground.config` asks for and return what each left, lowest first.

    "linear" climbs the first alone; "queries" the first two, since the second starts from the first; "full" the last
    alone; "auto" all of them, the last only where the index may change. The budget covers all of them, with the
    embedding of the corpus and the looks at dev; a rung before which it is used up is left out, but never the first.

    Args:
        ground: base model, examples, settings.
        progress: called after each optimiser step.
        on_rung: called with each rung that is done.
        on_next: called with the name and the planned steps of a rung before its first step.

    Raises:
        TrainingError: if there are no dev queries, and the index has to stay or general queries are to be kept, since
            a rung that does either is only shipped where dev says so.
    """
    config, start = ground.config, time.perf_counter()
    mode = _mode(ground)
    rungs: list[Rung] = []

    def done(rung: Rung) -> None:
        rungs.append(rung)
        if on_rung:
            on_rung(rung)

    def left() -> float | None:
        if config.budget_minutes is None:
            return None
        return max(config.budget_minutes - (time.perf_counter() - start) / 60, _USED_UP)

    def within_budget(rung: Mode) -> bool:
        if left() != _USED_UP:
            return True
        logger.warning("the budget of %g minutes is used up before the rung %r", config.budget_minutes, rung)
        return False

    last = mode == "queries" or config.keep_index
    matrix = None
    if mode != "full":
        rung, matrix = climb_linear(ground)
        done(rung)
    if mode in ("queries", "auto") and within_budget("queries"):
        minutes = left()
        if minutes is not None and not last:
            minutes *= QUERIES_SHARE
        done(
            climb_queries(
                ground,
                matrix=matrix,
                minutes=minutes,
                progress=progress,
                on_plan=lambda plan: on_next("queries", plan) if on_next else None,
            )
        )
    if mode == "full" or (mode == "auto" and not config.keep_index and within_budget("full")):
        done(
            climb_full(
                ground,
                minutes=left(),
                progress=progress,
                on_plan=lambda plan: on_next("full", plan) if on_next else None,
            )
        )
    return rungs


def _mode(ground: Ground) -> Literal["auto", "linear", "queries", "full"]:
    """The mode that is asked for; "full" alone can do without dev queries."""
    config, mode = ground.config, ground.config.mode
    if ground.dev is not None:
        return mode
    if mode in ("linear", "queries") or config.keep_index:
        raise TrainingError(
            f"There are no dev queries, which mode {mode!r} chooses on; add queries, or train in mode 'full'."
        )
    if ground.general:
        raise TrainingError(
            "There are no dev queries, by which a model that keeps the retention set is chosen; add queries, or "
            "train without retention."
        )
    return "full"
