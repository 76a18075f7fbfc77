"""Ids for rows that bring none."""

from __future__ import annotations

import hashlib


def id_from_text(prefix: str, text: str) -> str:
    """Return an id that depends on the text alone, so that the order of rows does not matter."""
    return f"{prefix}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
