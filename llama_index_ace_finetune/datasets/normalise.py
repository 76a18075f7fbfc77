"""When two texts count as the same text."""

from __future__ import annotations

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Return the form under which texts are compared: NFKC, case-folded, white space collapsed.

    Punctuation stays, since in commands and error codes it carries the meaning.
    """
    # ASCII is already NFKC; the shortcut matters at a million texts.
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


def text_hash(text: str) -> str:
    """Return the sha256 of the normalised text in hex: the name of a text in manifests and caches of results."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()
