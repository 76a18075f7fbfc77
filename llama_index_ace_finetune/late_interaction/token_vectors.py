"""TokenVectors: the token vectors of several texts in one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """Unit vectors of the tokens of n texts.

    Attributes:
        vectors: float32 [t, d], the tokens of all texts, one text after the other.
        offsets: int64 [n + 1]; text i has the rows offsets[i]:offsets[i + 1].
        token_ids: of the tokenizer, int64 [t]; None if the vectors are not those of single tokens.
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    token_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.vectors).all():
            raise ModelError("Token vectors hold NaN or infinite values; train or copy their model again.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> NDArray[np.float32]:
        """Return the token vectors of one text, float32 [tokens, d]."""
        return self.vectors[self.offsets[text] : self.offsets[text + 1]]

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, int64 [n]."""
        return np.diff(self.offsets)

    def select(self, texts: NDArray[np.int64]) -> TokenVectors:
        """Return the token vectors of these texts, in this order."""
        lengths = self.lengths[texts]
        rows = ragged_rows(self.offsets[texts], lengths)
        token_ids = None if self.token_ids is None else self.token_ids[rows]
        return TokenVectors(self.vectors[rows], offsets_of(lengths), token_ids)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """Return the texts of all parts (at least one), in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        ids = [part.token_ids for part in parts if part.token_ids is not None]
        token_ids = np.concatenate(ids) if len(ids) == len(parts) else None
        return cls(np.concatenate([part.vectors for part in parts]), offsets_of(lengths), token_ids)
