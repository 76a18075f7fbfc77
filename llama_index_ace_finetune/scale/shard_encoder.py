"""ShardEncoder: an Encoder that takes the vectors of memories from shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress, Role
from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.vector_shard import VectorShard, text_digests


class ShardEncoder(Encoder):
    """A model whose document vectors are read from shards; other texts, and queries, are encoded.

    A vector is used only for exactly the text that it was made from. One shard at a time is in memory, and 16 bytes for
    each memory of all shards.

    Args:
        encoder: the model, in torch.
        folders: of the shards.

    Raises:
        StoreError: if the shards are of another model.
    """

    def __init__(self, encoder: Encoder, folders: Sequence[ShardFolder]) -> None:
        super().__init__(
            encoder.model,
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            settings=encoder.settings,
            document_fingerprint=encoder.document_fingerprint,
            folder=encoder.folder,
        )
        self._places = [(folder, number) for folder in folders for number in range(len(folder))]
        for folder in folders:
            if folder.fingerprint != self.document_fingerprint:
                raise StoreError(
                    f"The shards in {str(folder.path)!r} are of another model ({folder.model!r:.80}) than "
                    f"{self.name!r:.80}; encode the memories with this one."
                )
        digests = [found for folder in folders for found in folder.digests()]
        self._starts = np.cumsum([0, *(len(found) for found in digests)])
        held = np.concatenate([np.empty(0, np.uint64), *digests])
        self._order = np.argsort(held, kind="stable")
        self._digests = held[self._order]
        self._open: tuple[int, VectorShard] | None = None

    @property
    def texts(self) -> int:
        """Number of texts in the shards."""
        return len(self._digests)

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role,
        cache: Path | None = None,
        progress: Progress | None = None,
        padded: bool = False,
    ) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        if role == "query" or not len(texts):
            return super().encode(texts, role=role, cache=cache, progress=progress, padded=padded)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        held = self._fill(texts, vectors)
        if progress:
            progress(int(held.sum()))
        others = np.flatnonzero(~held)
        if len(others):
            missing = [texts[place] for place in others.tolist()]
            vectors[others] = super().encode(missing, role=role, cache=cache, progress=progress, padded=padded)
        return vectors

    def holds(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which texts are in the shards, after normalisation, bool [n]."""
        return self._held(text_digests(texts))

    def _held(self, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._digests):
            return np.zeros(len(digests), bool)
        place = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        return np.asarray(self._digests[place] == digests)

    def _fill(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Write the vectors of texts that the shards hold; return which ones these are."""
        filled = np.zeros(len(texts), bool)
        digests = text_digests(texts)
        known = np.flatnonzero(self._held(digests))
        rows = self._order[np.searchsorted(self._digests, digests[known])]
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            shard = self._read(int(number))
            for place, row in zip(known[owner == number], rows[owner == number] - self._starts[number], strict=True):
                if shard.memories[row].text == texts[place]:  # else equal only after normalisation
                    vectors[place], filled[place] = shard.vectors[row], True
        return filled

    def _read(self, number: int) -> VectorShard:
        if self._open is None or self._open[0] != number:
            folder, own = self._places[number]
            self._open = (number, folder.read(own))
        return self._open[1]
