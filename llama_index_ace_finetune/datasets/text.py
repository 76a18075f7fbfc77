"""Texts: normal form, hash, id, repair of mojibake."""

from __future__ import annotations

import hashlib
import re
import unicodedata


def normalise(text: str) -> str:
    """Return the form under which texts are compared: NFKC, case-folded, white space collapsed.

    Punctuation is kept, as it has a meaning in commands and error codes.
    """
    # ASCII is already NFKC; the shortcut matters at a million texts.
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


def text_hash(text: str) -> str:
    """Return the sha256 of the normalised text in hex: it identifies a text in manifests and caches."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()


def id_from_text(prefix: str, text: str) -> str:
    """Return an id that depends only on the text, so that the order of rows does not matter."""
    return f"{prefix}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


# Marks that follow a word directly: MANHÃ… and café…” are clean, though their bytes are UTF-8 of something else.
_MARKS = "\u2013\u2014\u2026\u2018\u2019\u201c\u201d\u201e\u201a\u2022\u2122\u00bb\u00b7\u00a0"
_CLEAN_WORD_END = re.compile(rf"(?:(?<=[A-ZÀ-ÖØ-Þ])[À-ÖØ-Þ]|(?<=[a-zß-öø-ÿ])[ß-öø-ÿ])[{_MARKS}]+")


def repair_mojibake(text: str) -> str:
    """Return the text as it was before UTF-8 bytes were read as Windows-1252, or the text itself.

    The text is repaired only if all of it converts back to valid UTF-8 and ftfy finds the same: `"âšª"` becomes
    `"⚪"`, `"café"` stays. An accented letter that ends a word in the case of that word, with a dash, an ellipsis or a
    quotation mark behind it, counts as clean unless something else in the text is not.
    """
    if text.isascii():
        return text
    repaired = _round_trip(text)
    if repaired == text or _round_trip(_CLEAN_WORD_END.sub("", text)) == _CLEAN_WORD_END.sub("", text):
        return text
    import ftfy

    return repaired if ftfy.fix_encoding(text) == repaired else text


def _round_trip(text: str) -> str:
    try:
        return _windows_1252_bytes(text).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return text


def _windows_1252_bytes(text: str) -> bytes:
    try:
        return text.encode("cp1252")
    except UnicodeEncodeError:
        # Five bytes have no Windows-1252 character; most decoders let them through as C1 controls.
        return b"".join(bytes([ord(c)]) if "\x80" <= c <= "\x9f" else c.encode("cp1252") for c in text)
