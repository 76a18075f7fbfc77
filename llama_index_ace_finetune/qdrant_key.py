"""The key of a Qdrant server, where nobody gave one."""

from __future__ import annotations

import os
from typing import Final

API_KEY_VARIABLE: Final = "QDRANT_API_KEY"


def qdrant_key() -> str | None:
    """Return what the environment variable QDRANT_API_KEY holds; None where it is unset or empty."""
    return os.environ.get(API_KEY_VARIABLE) or None
