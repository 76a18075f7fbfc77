"""Run the training modes that the settings ask for, cheapest first, within one budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import get_args

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.config import ModeName, TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.budget import DoesNotFitError, StepPlan
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.modes.mode import Mode, ModeEstimate, Speed, TrainingSizes
from llama_index_ace_finetune.training.modes.result import ModeResult

logger = logging.getLogger(__name__)

OnModeEnd = Callable[[ModeResult], None]
OnModeStart = Callable[[str, StepPlan], None]

MODES: tuple[Mode, ...] = tuple(import_module(f"{__package__}.{name}").MODE for name in get_args(ModeName))
"""All training modes, cheapest first."""


_AUTO = ("linear", "in_batch", "full", "queries")


def modes_of(config: TrainingConfig) -> tuple[Mode, ...]:
    """Return the modes that the settings ask for, in the order in which they run.

    "auto" runs `linear`, `in_batch`, `full` if at least half of its epochs fit then, and `queries` where neither is a
    gain on dev; with `keep_index`, those that keep the index. Any other mode runs those that it starts from, then
    itself.
    """
    by_name = {mode.name: mode for mode in MODES}
    if config.mode == "auto":
        return (
            tuple(mode for mode in MODES if mode.keeps_index)
            if config.keep_index
            else tuple(by_name[name] for name in _AUTO)
        )
    asked = by_name[config.mode]
    return (*(by_name[name] for name in asked.starts_from), asked)


def _is_needed(mode: Mode, results: Sequence[ModeResult], config: TrainingConfig) -> bool:
    """Whether "auto" runs `mode` after `results`.

    `in_batch` would be `full` without mined negatives, which a teacher needs; `queries` follows only where no mode that
    trains documents is a gain.
    """
    if config.mode != "auto" or config.keep_index:
        return True
    if mode.name == "in_batch":
        return config.hard_negatives > 0 and config.teacher is None
    return mode.name != "queries" or not any(result.ships for result in results if result.weights is not None)


def run_modes(
    context: TrainingContext,
    *,
    progress: StepProgress | None = None,
    on_mode_end: OnModeEnd | None = None,
    on_mode_start: OnModeStart | None = None,
    started: float | None = None,
) -> list[ModeResult]:
    """Run the modes that `context.config` asks for and return the result of each, cheapest first.

    The budget covers all of them, with the embedding of the corpus and the dev evaluations; a mode for which nothing
    is left, or not more than one step, is not started, with a warning.

    Args:
        context: base model, examples, settings.
        progress: called after each optimiser step.
        on_mode_end: called with the result of each mode.
        on_mode_start: called with the name and the planned steps of a mode before its first step.
        started: `time.perf_counter()` when the budget began; now by default.

    Raises:
        TrainingError: if the first mode does not fit into the budget; or if there are no dev queries, and the index has
            to stay, a retention set is given, or the mode ships only what dev confirms.
    """
    config, start = context.config, time.perf_counter() if started is None else started
    modes = _without_dev(context) if context.dev is None else modes_of(config)
    results: list[ModeResult] = []
    for mode in modes:
        if not _is_needed(mode, results, config):
            continue
        minutes = None
        if config.budget_minutes is not None:
            minutes = config.budget_minutes - (time.perf_counter() - start) / 60
            if results and minutes <= 0:
                logger.warning("no time is left of %g minutes for mode %r", config.budget_minutes, mode.name)
                continue
            minutes = max(minutes, 1e-6) * (1.0 if mode is modes[-1] else mode.budget_share)
        context.on_phase(mode.name)
        try:
            result = mode.train(
                context,
                previous=results,
                minutes=minutes,
                progress=progress,
                on_plan=_on_plan(mode.name, minutes, on_mode_start),
            )
        except DoesNotFitError as error:
            left = 60 * (minutes or 0.0)
            if results:
                logger.warning("mode %r is not started: %s, and %.0f s of the budget are left", mode.name, error, left)
                continue
            raise TrainingError(
                f"The budget is too short for mode {mode.name!r}: {error}, and {left:.0f} s are left; raise "
                "budget_minutes."
            ) from error
        results.append(result)
        if on_mode_end:
            on_mode_end(result)
    return results


def _on_plan(name: str, minutes: float | None, on_mode_start: OnModeStart | None) -> Callable[[StepPlan], None]:
    """Return what is called with the plan of a mode: it passes the plan on, and warns if it exceeds the budget."""

    def planned(plan: StepPlan) -> None:
        if minutes is not None and plan.seconds > 60 * minutes + 1:
            logger.warning(
                "mode %r is planned to take %.0f s with its dev evaluations, more than its %.0f s of the budget",
                name, plan.seconds, 60 * minutes,
            )  # fmt: skip
        if on_mode_start:
            on_mode_start(name, plan)

    return planned


def estimate_modes(config: TrainingConfig, sizes: TrainingSizes, speed: Speed) -> list[tuple[str, ModeEstimate]]:
    """Return (name, estimate) of each mode that `run_modes` would run with dev queries."""
    left = None if config.budget_minutes is None else 60 * config.budget_minutes
    found: list[tuple[str, ModeEstimate]] = []
    # What is expected is that documents are trained with a gain.
    expected = [mode for mode in modes_of(config) if _is_needed(mode, (), config)]
    modes = [mode for mode in expected if config.mode != "auto" or config.keep_index or mode.name != "queries"]
    for mode in modes:
        seconds = left if left is None or mode is modes[-1] else mode.budget_share * left
        estimate = mode.estimate(
            config, sizes, speed, seconds=seconds, after=[name for name, done in found if done.seconds > 0]
        )
        if left is not None:
            left = max(left - estimate.seconds, 0.0)
        found.append((mode.name, estimate))
    return found


def _without_dev(context: TrainingContext) -> Sequence[Mode]:
    """The modes that can do without dev queries."""
    config = context.config
    modes = [mode for mode in modes_of(config) if not mode.needs_dev]
    if not modes or config.keep_index:
        raise TrainingError(
            f"There are no dev queries, on which mode {config.mode!r} is validated; add queries, or train in mode "
            "'full'."
        )
    if context.general:
        raise TrainingError(
            "There are no dev queries, on which a model that keeps the retention set is selected; add queries, or "
            "train without retention."
        )
    return modes
