"""Settings of stored token vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.late_interaction.quantization import Bits

LARGEST_POOLING: Final = 16
_MANY_DIMENSIONS = 256


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How the token vectors of memories are stored.

    Attributes:
        dimension: dimension of the vectors, if a projection is computed from the memories (at most that of the model's
            token states); None takes the states as they are. A trained projection has its own dimension.
        bits: bits per coordinate, 8, 4 or 2; by default 2 for vectors projected to 256 dimensions or more, else 4.
        merge_repeated: one vector for all occurrences of a token in a memory, their mean.
        pooling: tokens per stored vector, 1 to 16: vectors of similar tokens of a memory are replaced by their mean.
    """

    dimension: int | None = 256
    bits: Bits | None = None
    merge_repeated: bool = True
    pooling: int = 1

    def __post_init__(self) -> None:
        if self.bits is not None and self.bits not in get_args(Bits):
            raise StoreError(f"Token vectors are stored in {quoted(self.bits)} bits; it must be 8, 4 or 2.")
        if self.pooling not in range(1, LARGEST_POOLING + 1):
            raise StoreError(
                f"The token pooling is {quoted(self.pooling)}; it must be an integer from 1 to {LARGEST_POOLING}."
            )
        if self.dimension is not None and self.dimension not in range(1, 4097):
            raise StoreError(
                f"The dimension of token vectors is {quoted(self.dimension)}; it must be an integer from 1 to 4096."
            )

    def bits_at(self, dimension: int) -> Bits:
        """Return the bits per coordinate of vectors of this dimension."""
        # The error of a dot product of 2-bit codes shrinks with the root of the dimension; states that are not rotated
        # have single large coordinates.
        return self.bits or (2 if self.dimension is not None and dimension >= _MANY_DIMENSIONS else 4)
