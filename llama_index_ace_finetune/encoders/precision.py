"""Whether bfloat16 pays on this machine."""

from __future__ import annotations

import functools
import time
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
_GAIN = 1.2
_ROUNDS = 15


@functools.cache
def choose_precision(device: str) -> Precision:
    """Multiply two matrices of a small encoder's size both ways and return the faster precision.

    bfloat16 must be 1.2 times as fast to be chosen. A process measures once. On a GPU the hardware's own statement
    decides.
    """
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    pairs = {}
    for dtype in (torch.float32, torch.bfloat16):
        pairs[dtype] = torch.randn(2048, 384).to(dtype), torch.randn(384, 1536).to(dtype)
    seconds = dict.fromkeys(pairs, float("inf"))
    try:
        # Turn by turn, so that what else runs on the machine slows both alike.
        for _ in range(_ROUNDS):
            for dtype, (left, right) in pairs.items():
                start = time.perf_counter()
                left @ right
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    except RuntimeError:
        return "float32"
    return "bfloat16" if seconds[torch.float32] > _GAIN * seconds[torch.bfloat16] else "float32"
