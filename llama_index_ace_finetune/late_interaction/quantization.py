"""Token vectors as integers of 8, 4 or 2 bits with one scale per token."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[2, 4, 8]
LEVELS: Final[dict[int, int]] = {2: 3, 4: 7, 8: 127}
"""Largest integer code per number of bits; codes are symmetric."""
# Multiplications per block of tokens. OpenBLAS does as many in the calling thread; several threads would wait for each
# other longer than the work takes, on a busy machine several times as long. A block also stays in the CPU's cache.
_MULTIPLICATIONS: Final = 2**18


def quantise_tokens(vectors: NDArray[np.float32], bits: Bits) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return the codes, uint8 [t, bytes], and scales, float16 [t], of unit vectors, float32 [t, d].

    With 8 and 4 bits a code is round(v * LEVELS / max|v|) of its token. With 2 bits it is -3, -1, 1 or 3, by the
    steps -s, 0 and s, where s is the root mean square of the token's coordinates: nearly the best steps for
    coordinates that are normally distributed (Max 1960, Quantizing for minimum distortion), as after a random rotation.
    The scale is 1 / |code|, so that decoded tokens are unit vectors again.

    Codes of fewer than 8 bits are packed: with n codes per byte, the byte i has the coordinates i, i + bytes, ...,
    i + (n - 1) * bytes, the first in its lowest bits.
    """
    codes = _codes(vectors, bits)
    norms = np.linalg.norm(codes, axis=1)
    present = (norms > 0) & vectors.any(axis=1)
    scales = np.divide(1, norms, out=np.zeros(len(norms), norms.dtype), where=present).astype(np.float16)
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8), scales
    step, offset = _spacing(bits)
    width = packed_bytes(vectors.shape[1], bits)
    numbers = np.zeros((len(codes), 8 // bits, width), np.uint8)
    numbers.reshape(len(codes), -1)[:, : codes.shape[1]] = (codes + offset) / step
    packed = np.zeros((len(codes), width), np.uint8)
    for place in range(8 // bits):
        packed |= numbers[:, place] << np.uint8(bits * place)
    return packed, scales


def packed_products(packed: NDArray[np.uint8], queries: NDArray[np.float32], bits: Bits) -> NDArray[np.float32]:
    """Return the dot products of tokens' integer codes, without their scales, and vectors, float32 [t, q].

    Args:
        packed: of `quantise_tokens`, uint8 [t, bytes].
        queries: float32 [q, d]; the products are exact if these are integers and no sum exceeds 2^24.
        bits: per coordinate.
    """
    per_byte, width = 8 // bits, packed.shape[1]
    padded = np.zeros((len(queries), per_byte * width), np.float32)
    padded[:, : queries.shape[1]] = queries
    # The coordinates of a byte follow each other when it is decoded, and so those of the queries do too.
    arranged = padded.reshape(-1, per_byte, width).transpose(0, 2, 1).reshape(padded.shape)
    table = _DECODED[bits]
    products = np.empty((len(packed), len(queries)), np.float32)
    rows = max(_MULTIPLICATIONS // max(padded.size, 1), 1)
    block = np.empty((min(rows, len(packed)), width), table.dtype)
    for start in range(0, len(packed), rows):
        part = packed[start : start + rows]
        decoded = block[: len(part)]
        table.take(part, out=decoded, mode="clip")  # no byte is out of range, and a check would copy
        np.matmul(decoded.view(np.float32), arranged.T, out=products[start : start + rows])
    return products


def packed_bytes(dimension: int, bits: Bits) -> int:
    """Bytes of the codes of one token."""
    return -(-dimension * bits // 8)


def _codes(vectors: NDArray[np.float32], bits: Bits) -> NDArray[np.float32]:
    if bits == 2:
        steps = np.sqrt(np.mean(np.square(vectors), axis=1, keepdims=True))
        inner = np.abs(vectors) < steps
        return np.asarray(np.where(vectors < 0, -1, 1) * np.where(inner, 1, 3), np.float32)
    largest = np.abs(vectors).max(axis=1, initial=0)[:, None]
    return np.asarray(np.rint(vectors * (LEVELS[bits] / np.where(largest > 0, largest, 1))), np.float32)


def _spacing(bits: Bits) -> tuple[int, int]:
    """Distance of successive codes, and what is added to a code so that they start at 0."""
    return (2, 3) if bits == 2 else (1, 8)


def _decoded_bytes(bits: Bits) -> NDArray[Any]:
    """Return the codes in each byte, [256]: as one number as wide as these float32, which is copied at once."""
    every = np.arange(256)
    if bits == 8:
        return every.astype(np.uint8).view(np.int8).astype(np.float32)
    step, offset = _spacing(bits)
    codes = [(every >> bits * place) % 2**bits * step - offset for place in range(8 // bits)]
    together = np.complex64 if bits == 4 else np.complex128
    return np.stack(codes, axis=1).astype(np.float32).view(together)[:, 0]


_DECODED: Final = {2: _decoded_bytes(2), 4: _decoded_bytes(4), 8: _decoded_bytes(8)}
