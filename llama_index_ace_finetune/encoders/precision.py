"""Choose the precision for a device."""

from __future__ import annotations

import platform
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def choose_precision(device: str) -> Precision:
    """Return bfloat16 if the hardware reports native support, else float32.

    Nothing is timed, so that a machine always gets the same vectors, and so the same hard negatives.
    """
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device == "cpu" and _processor_has_bfloat16() else "float32"


def _processor_has_bfloat16() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        # oneDNN also accepts bfloat16 if it only emulates it, which is slower than float32.
        flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, flag, bool)() for flag in flags)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)
    return bool(torch.backends.mkldnn.is_available()) and bool(supported())  # type: ignore[no-untyped-call]
