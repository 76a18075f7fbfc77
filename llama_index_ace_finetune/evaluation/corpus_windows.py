"""CorpusWindows: the windows of the texts of a corpus that a model truncates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.ranking.further_vectors import FurtherVectors


@dataclass(frozen=True, eq=False)
class CorpusWindows:
    """The windows of a corpus, which are not encoded yet.

    Attributes:
        encoder: of the windows.
        texts: of all windows.
        rows: the corpus row of each, int64 [r], ascending.
    """

    encoder: WindowEncoder
    texts: tuple[str, ...]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, encoder: Encoder, corpus: Sequence[str]) -> CorpusWindows:
        """Split the texts of a corpus that a model truncates."""
        windows = WindowEncoder(encoder)
        found = windows.split(corpus)
        rows = np.repeat(np.arange(len(found)), [len(each) for each in found])
        return cls(windows, tuple(one for each in found for one in each), rows)

    @property
    def truncated(self) -> int:
        """Number of texts that the model truncates."""
        return len(np.unique(self.rows))

    def encode(self, *, cache: Path | None = None, progress: Progress | None = None) -> FurtherVectors | None:
        """Return the vectors of the windows; None if there are none."""
        if not self.texts:
            return None
        return FurtherVectors.of(self.encoder.encode(self.texts, cache=cache, progress=progress), self.rows)
