"""TokenStates: text vectors and token states of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.utils.ragged import offsets_of, ragged_rows


@dataclass(frozen=True)
class TokenStates:
    """What `Encoder.encode_tokens` returns of n texts.

    Attributes:
        vectors: the unit vector of each text, as from `Encoder.encode`, float32 [n, dimension].
        states: states of the last layer, float32 [t, width], one text after the other. All tokens of a text count, also
            those of its prompt and special tokens; padding does not.
        lengths: tokens of each text, int64 [n].
        token_ids: of the tokenizer, int64 [t].
    """

    vectors: NDArray[np.float32]
    states: NDArray[np.float32]
    lengths: NDArray[np.int64]
    token_ids: NDArray[np.int64]

    def select(self, texts: NDArray[np.int64]) -> TokenStates:
        """Return these texts, in this order."""
        starts, lengths = offsets_of(self.lengths)[texts], self.lengths[texts]
        rows = ragged_rows(starts, lengths)
        return TokenStates(self.vectors[texts], self.states[rows], lengths, self.token_ids[rows])

    @classmethod
    def in_order(cls, parts: list[tuple[NDArray[np.int64], TokenStates]]) -> TokenStates:
        """Return the texts of batches, given with their places, which are 0 to n - 1 in some order."""
        whole = cls(
            np.concatenate([part.vectors for _, part in parts]),
            np.concatenate([part.states for _, part in parts]),
            np.concatenate([part.lengths for _, part in parts]),
            np.concatenate([part.token_ids for _, part in parts]),
        )
        return whole.select(np.argsort(np.concatenate([places for places, _ in parts]), kind="stable"))
