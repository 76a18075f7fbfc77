"""Texts that a tokenizer takes."""

from __future__ import annotations


def whole_text(text: str) -> str:
    """Return the text with half characters (lone surrogates), which no tokenizer and no server takes, as `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
