"""WindowSearch: windows of long texts as further vectors of a store's memories, merged into the dense leg."""

from __future__ import annotations

import logging
from typing import Final

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.retrievers.legs.further_vector_search import FurtherVectorSearch
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.stores.point_ids import PointKey
from llama_index_ace_finetune.utils.text_key import text_key

logger = logging.getLogger(__name__)
MAX_ENCODED: Final = 256
"""Windows that a search encodes for memories that were written since the last one; more are encoded by `fill`."""
_MOST_UNUSED: Final = 1024


class WindowSearch(FurtherVectorSearch):
    """Compares queries with the windows of the memories that are in a store now; new memories get theirs.

    The windows of a text are deleted with its last memory.

    Args:
        store: of the memories.
        stored: windows by the model of the dense leg.
    """

    def __init__(self, store: MemoryStore, stored: StoredWindows) -> None:
        super().__init__(store, text_key)
        self._stored = stored
        self._add(*stored.windows())

    def fill(self) -> int:
        """Encode the windows of all memories that were not looked at yet; return the number of these memories."""
        count = self._stored.add(node.get_content(MetadataMode.EMBED) for node in self._store.nodes())
        self._stored.flush()
        self.refresh()
        return count

    def close(self) -> None:
        """Write the windows of memories that were written since the windows were opened."""
        try:
            self._stored.flush()
        except (AceFinetuneError, OSError) as error:
            logger.warning("windows of new memories were not stored: %s", error)

    def _needs_vectors(self, key: str) -> bool:
        return not self._stored.is_short(key)

    def _update(self, changed: set[PointKey] | None) -> None:
        before = {self._group_of_point[point] for point in changed or () if point in self._group_of_point}
        unused = len(self._ids) - len(self._group_of_text)
        if unused > max(_MOST_UNUSED, len(self._ids) // 2):
            self._clear()
            self._add(*self._stored.windows())
            before, changed = set(), None
        super()._update(changed)
        # Others are kept: a folder may serve another collection too.
        keys = [self._keys[group] for group in before if not self._ids[group]]
        for key in keys:
            del self._group_of_text[key]  # its vectors are found for no memory any more
        self._stored.delete(keys)

    def _add_missing(self, texts: dict[str, str]) -> None:
        new = {key: text for key, text in texts.items() if key not in self._stored}
        windows = self._stored.encoder.split(list(new.values()))
        total = sum(map(len, windows))
        if total > MAX_ENCODED:
            raise StoreError(
                f"{total} windows of {sum(map(bool, windows))} long memories in {self._store.location} are not encoded "
                "yet; build the index again, or call the retriever's `build_windows`."
            )
        if new:
            self._stored.add_windows(list(new.values()), windows)
        keys, counts, vectors = self._stored.windows(texts)
        if keys:
            self._add(keys, counts, vectors)
