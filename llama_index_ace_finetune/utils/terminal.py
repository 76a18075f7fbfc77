"""Escape terminal control characters in output, and make streams accept any text."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from llama_index_ace_finetune.utils.redact import without_passwords

# Control characters (escape sequences begin with one), line separators, and marks that reorder what is displayed.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return the text with control characters and bidirectional overrides escaped, as `\x1b` or `\u202e`.

    Line feeds and tabs stay. Untrusted texts come from data, configurations, file names and model outputs.
    """
    return _UNSAFE.sub(_escaped, text)


def json_visible(text: str) -> str:
    """Return JSON text with the same characters as JSON escapes, so that its value does not change."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class VisibleStream:
    """A text stream that escapes control characters and hides passwords in URLs.

    Libraries (warnings, logging, tracebacks) write to it; code that styles its output writes to `unfiltered`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unfiltered = stream

    def write(self, text: str) -> int:
        """Write the text; a leading carriage return stays, since progress bars begin with one."""
        start = "\r" if text.startswith("\r") and not text.startswith("\r\n") else ""
        self.unfiltered.write(start + visible(without_passwords(text[len(start) :].replace("\r\n", "\n"))))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Return False, since callers would send colours, which are escape sequences."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


def accept_any_text() -> None:
    r"""Make standard output and standard error escape characters outside their encoding (`\u4e2d`) instead of failing.

    A closed stream is replaced by one that discards everything.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
