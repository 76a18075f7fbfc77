"""The projection of token states that was trained with a model, in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.write_array import write_array_file

TOKEN_PROJECTION: Final = "token_projection.npy"
_REFUSAL: Final = Refusal("The projection of token states", "train or copy the model again", ModelError)


def write_trained_projection(folder: Path, projection: NDArray[np.float32]) -> None:
    """Write a projection, float32 [width, dimension], into the model folder `folder`.

    It changes no single vector, so the fingerprint of the model does not cover it; that of a `TokenEncoder` does.
    """
    write_array_file(folder / TOKEN_PROJECTION, np.ascontiguousarray(projection, np.float32))


def read_trained_projection(folder: Path) -> NDArray[np.float32] | None:
    """Return the projection of the model in `folder`, float32 [width, dimension]; None if none was trained.

    Raises:
        ModelError: if the file cannot be used.
    """
    file = folder / TOKEN_PROJECTION
    if not file.exists():
        return None
    projection = read_array_file(file, _REFUSAL, dtypes=dtypes(np.float32), dimensions=2)
    if not projection.size or not np.isfinite(projection).all():
        raise _REFUSAL.because(file, "is damaged (it is empty, or holds NaN or infinite values)")
    return projection
