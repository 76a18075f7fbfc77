"""Open what a search can do without."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from llama_index_ace_finetune.errors import AceFinetuneError

logger = logging.getLogger(__name__)
_Opened = TypeVar("_Opened")


def open_or_warn(consequence: str, open_it: Callable[[], _Opened]) -> _Opened | None:
    """Return what `open_it` returns; None, with a warning of the consequence and the reason, if it cannot be opened."""
    try:
        return open_it()
    except AceFinetuneError as error:
        logger.warning("%s: %s", consequence, error)
        return None
