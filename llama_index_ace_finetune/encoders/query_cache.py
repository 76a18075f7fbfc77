"""QueryCache: an LRU cache of query vectors."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable

from llama_index_ace_finetune.utils.fork import fork_safe_lock


class QueryCache:
    """At most `size` vectors by model and text, evicting the least recently used. Thread-safe.

    Args:
        size: number of vectors to keep; 0 for none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._vectors: OrderedDict[tuple[str, str], array[float]] = OrderedDict()
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, model: str, text: str, compute: Callable[[], list[float]]) -> list[float]:
        """Return the vector of `text` as a new list, computed if it is not cached.

        Args:
            model: the part of the cache key besides the text, such as a fingerprint.
            text: the query.
            compute: computes its vector.
        """
        if not self.size:
            return compute()
        key = (model, text)
        with self._lock:
            if key in self._vectors:
                self._vectors.move_to_end(key)
                return self._vectors[key].tolist()
        vector = compute()
        with self._lock:
            self._vectors[key] = array("d", vector)
            while len(self._vectors) > self.size:
                self._vectors.popitem(last=False)
        return vector
