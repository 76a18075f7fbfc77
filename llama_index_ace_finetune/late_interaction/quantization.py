"""Token vectors as 8-bit or 4-bit integers with one scale per token."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 8]
LEVELS: Final[dict[int, int]] = {4: 7, 8: 127}
"""Largest integer code per number of bits; codes are symmetric."""


def quantise_tokens(vectors: NDArray[np.float32], bits: Bits) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return the codes, uint8 [t, bytes], and scales, float16 [t], of unit vectors, float32 [t, d].

    A code is round(v * LEVELS / max|v|) of its token. The scale is 1 / |code|, so that decoded tokens are unit vectors
    again. Codes of 4 bits are packed in pairs: coordinate i in the lower and coordinate i + (d + 1) // 2 in the upper
    half of byte i, as code + 8.
    """
    largest = np.abs(vectors).max(axis=1, initial=0)[:, None]
    codes = np.rint(vectors * (LEVELS[bits] / np.where(largest > 0, largest, 1)))
    norms = np.linalg.norm(codes, axis=1)
    scales = np.divide(1, norms, out=np.zeros(len(norms), norms.dtype), where=norms > 0).astype(np.float16)
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8), scales
    half = packed_bytes(vectors.shape[1], bits)
    shifted = np.full((len(codes), 2 * half), 8, np.uint8)
    shifted[:, : codes.shape[1]] = codes + 8
    return np.asarray(shifted[:, :half] | (shifted[:, half:] << 4), np.uint8), scales


def decode_tokens(packed: NDArray[np.uint8], dimension: int, bits: Bits) -> NDArray[np.float32]:
    """Return the integer codes as float32 [t, dimension], without their scales."""
    if bits == 8:
        return packed.view(np.int8).astype(np.float32)
    half = packed.shape[1]
    codes = np.empty((len(packed), 2 * half), np.float32)
    codes[:, :half] = packed & 15
    codes[:, half:] = packed >> 4
    codes -= 8
    return codes if codes.shape[1] == dimension else np.ascontiguousarray(codes[:, :dimension])


def packed_bytes(dimension: int, bits: Bits) -> int:
    """Bytes of the codes of one token."""
    return dimension if bits == 8 else -(-dimension // 2)
