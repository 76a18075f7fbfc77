"""Write a NumPy array to a file, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.utils.atomic import new_file
from llama_index_ace_finetune.utils.read_array import checksum_of


def write_array_file(path: Path, array: NDArray[Any]) -> int:
    """Write a .npy file; return the `checksum_of` the array, for `read_array_file`.

    Raises:
        OutputExistsError: if `path` is a folder, a device or a pipe.
    """
    with new_file(path) as handle:
        np.save(handle, array, allow_pickle=False)
    return checksum_of(array)
