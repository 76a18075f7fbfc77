"""Replace lone surrogates, which tokenizers do not accept."""

from __future__ import annotations


def replace_lone_surrogates(text: str) -> str:
    """Return the text with lone surrogates, which no tokenizer and no server accepts, as `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
