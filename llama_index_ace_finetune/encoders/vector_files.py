"""VectorFiles: the folder of the vectors of one encoder: an .npy file per array, and `meta.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.read_array import read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked
from llama_index_ace_finetune.utils.write_array import write_array_file


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """Content of `meta.json`, which is written last: the encoder's fingerprint, and the CRC-32 of each array."""

    fingerprint: str
    dimension: int
    checksums: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class VectorFiles:
    """Writes and reads arrays; those that are damaged, or that another encoder made, are refused.

    Attributes:
        kind: of the folder, as it is marked and as errors name its content.
        arrays: accepted data types and number of dimensions of each array, by name.
        fingerprint: of the encoder.
        dimension: of its vectors.
        absent: what a folder without these files lacks, and what to do, as in "There are no ...".
        of_other: what is wrong with the vectors of another encoder, and what to do, as in "The KIND in 'path' ...".
        damaged: builds the error message for a damaged file.
        mapped_from: bytes of a file from which on it is mapped into memory instead of being read.
    """

    kind: str
    arrays: Mapping[str, tuple[frozenset[np.dtype[Any]], int]]
    fingerprint: str
    dimension: int
    absent: tuple[str, str]
    of_other: str
    damaged: Refusal
    mapped_from: float = math.inf

    def write(self, folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write all arrays to a folder, which replaces one there as a whole.

        Raises:
            OutputExistsError: if the folder holds something else.
        """
        with new_folder(folder, kind=self.kind, wait=True) as aside:
            checksums = {name: write_array_file(aside / f"{name}.npy", array) for name, array in arrays.items()}
            meta = _Meta(fingerprint=self.fingerprint, dimension=self.dimension, checksums=checksums)
            write_json(aside / "meta.json", asdict(meta))

    def read(self, folder: Path) -> dict[str, NDArray[Any]]:
        """Return the arrays in a folder; whether they fit each other is not checked.

        Raises:
            StoreError: if a file is missing or damaged, or another encoder made them.
        """
        checksums, arrays = self.require(folder), {}
        for name, (accepted, dimensions) in self.arrays.items():
            file = folder / f"{name}.npy"
            arrays[name] = read_array_file(
                file, self.damaged, dtypes=accepted, dimensions=dimensions, mapped=self._is_large(file),
                checksum=checksums[name],
            )  # fmt: skip
        return arrays

    def require(self, folder: Path) -> dict[str, int]:
        """Return the CRC-32 of each array in a folder, by its `meta.json`.

        Raises:
            StoreError: if that is missing or damaged, or another encoder made the vectors.
        """
        file = folder / "meta.json"
        if not file.is_file():
            what, remedy = self.absent
            raise StoreError(f"There are no {what} in {str(folder)!r}; {remedy}.")
        meta = checked(read_json_object(file, self.damaged), _Meta, file, self.damaged)
        if (meta.fingerprint, meta.dimension) != (self.fingerprint, self.dimension):
            raise StoreError(f"The {self.kind} in {str(folder)!r} {self.of_other}.")
        if meta.checksums.keys() != self.arrays.keys():
            raise self.damaged.because(file, "is damaged (it does not name all arrays)")
        return meta.checksums

    def _is_large(self, file: Path) -> bool:
        return file.is_file() and file.stat().st_size > self.mapped_from
