"""Whether bfloat16 pays on this machine."""

from __future__ import annotations

import time
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
_GAIN = 1.2


def choose_precision(device: str) -> Precision:
    """Multiply two matrices of a small encoder's size both ways and return the faster precision.

    bfloat16 must be 1.2 times as fast to be chosen. On a GPU the hardware's own statement decides.
    """
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(2048, 384).to(dtype), torch.randn(384, 1536).to(dtype)
        try:
            left @ right
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                left @ right
                best = min(best, time.perf_counter() - start)
        except RuntimeError:
            return "float32"
        seconds[dtype] = best
    return "bfloat16" if seconds[torch.float32] > _GAIN * seconds[torch.bfloat16] else "float32"
