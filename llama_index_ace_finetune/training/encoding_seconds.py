"""How long encoding will take, by a measured part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

_MEASURED = 128


def encoding_seconds(encode: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    """Return the seconds that `encode(texts)` would take, by some texts from all over them."""
    some = texts[:: max(1, len(texts) // _MEASURED)][:_MEASURED]
    if not some:
        return 0.0
    start = time.perf_counter()
    encode(some)
    return (time.perf_counter() - start) * len(texts) / len(some)
