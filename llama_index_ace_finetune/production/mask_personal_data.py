"""mask_personal_data: a redaction for query logs."""

from __future__ import annotations

import re
from typing import Final

from llama_index_ace_finetune.utils.redact import without_passwords

_MASKS: Final = (
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<email>"),
    (re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){3,7}(?:[ ]?[A-Z0-9]{1,3})?\b"), "<iban>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), "<ip>"),
    (re.compile(r"(?<![\w.])\+?\d(?:[ ()/-]{0,2}\d){6,18}(?!\w)"), "<number>"),
)


def mask_personal_data(text: str) -> str:
    """Return the text with `<email>`, `<iban>`, `<ip>` and `<number>` for what looks like personal data.

    Numbers of 7 to 19 digits are masked, such as phone, card and customer numbers; names and addresses are not
    recognised. Passwords in URLs become `***`.
    """
    text = without_passwords(text)
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text
