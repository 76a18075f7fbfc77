"""PipelineEvents: what a function of the pipeline reports while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

logger = logging.getLogger(__name__)

TextsProgress = Callable[[int], None]
"""Called with the number of texts that were just encoded."""

StepsProgress = Callable[[int, int, dict[str, float]], None]
"""Called after each optimiser step with the step, the number of steps, and the latest figures by name."""


class PipelineEvents:
    """Receives messages and progress of a pipeline function; subclass it to show them.

    This class logs messages at INFO and warnings at WARNING, and ignores progress.
    """

    def on_message(self, text: str) -> None:
        """Receive a line about what was done or comes next."""
        logger.info("%s", text)

    def on_warning(self, text: str) -> None:
        """Receive a line that a user must see."""
        logger.warning("%s", text)

    def on_phase(self, label: str) -> None:
        """Receive the name of the phase that begins within a progress, such as "full: evaluating"."""

    def texts_progress(self, label: str, total: int | None) -> AbstractContextManager[TextsProgress]:
        """Return a context for encoding `total` texts (None: unknown); it gives a function to call with counts."""
        return nullcontext(lambda count: None)

    def steps_progress(self, label: str) -> AbstractContextManager[StepsProgress]:
        """Return a context for training; it gives a function to call after each step."""
        return nullcontext(lambda step, total, latest: None)
