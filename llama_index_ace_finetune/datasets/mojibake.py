"""Text that was UTF-8 and was read as Windows-1252."""

from __future__ import annotations


def repair_mojibake(text: str) -> str:
    """Return the text as it was before UTF-8 bytes were read as Windows-1252, or the text itself.

    The repair is made only where the whole text goes back to valid UTF-8, which ordinary text with
    accents does not: `"âšª"` becomes `"⚪"`, `"café"` stays.
    """
    if text.isascii():
        return text
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
