"""Remove passwords and keys in URLs from text."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")
# A password with a character that ought to be percent-encoded; a port number is no password.
_UNQUOTED_USER_INFO = re.compile(r"(?<=://)[^\s/?#:@]*:(?!\d+(?:[/?#\s]|$))[^\s'\"<>]*@")
_SECRET_PARAMETER = re.compile(
    r"([?&;#][^\s=&;?#]*(?:key|token|secret|passw|pwd|auth|credential|signature|\bsig\b)[^\s=&;?#]*=)[^\s&;#'\"<>)]+",
    re.IGNORECASE,
)


def without_passwords(text: str) -> str:
    """Return the text with `***` for the user information and the secret parameters of every URL in it.

    Use it wherever a URL, or an error of a library that may quote one, is shown, logged or written to a file:
    `http://user:secret@host/?api_key=abc` becomes `http://***@host/?api_key=***`.
    """
    if "://" not in text:
        return text
    text = _UNQUOTED_USER_INFO.sub("***@", _USER_INFO.sub("***@", text))
    return _SECRET_PARAMETER.sub(r"\1***", text)
