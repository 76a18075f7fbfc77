"""text_key: the id under which what was computed from a text is stored."""

from __future__ import annotations

import hashlib

KEY_BYTES = 16


def text_key(text: str) -> str:
    """Return 32 hex digits of the SHA-256 of a text: a changed text has another key, and equal texts have one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[: 2 * KEY_BYTES]
