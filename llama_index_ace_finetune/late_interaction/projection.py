"""Linear projections of token states to fewer dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def principal_projection(vectors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Return the projection, float32 [d, dimension], that keeps the dot products of unit `vectors` [t, d] best.

    Its columns are the first eigenvectors of V'V (principal components without centring, since dot products are not
    centred either), multiplied by a fixed random rotation: it changes no dot product, and makes all coordinates equally
    large, so that quantising to few bits loses less.
    """
    vectors = vectors.astype(np.float64)
    _, eigenvectors = np.linalg.eigh(vectors.T @ vectors)
    # An eigenvector's sign is arbitrary; fixing it makes the result the same for every LAPACK.
    chosen = eigenvectors[:, ::-1][:, :dimension]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((chosen.shape[1], chosen.shape[1])))
    return np.ascontiguousarray((chosen * signs) @ rotation, np.float32)
