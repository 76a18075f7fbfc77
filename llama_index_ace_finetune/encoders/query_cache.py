"""QueryCache: the vectors of the latest queries."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable

from llama_index_ace_finetune.utils.fork import fork_safe_lock


class QueryCache:
    """At most `size` vectors by model and text, the least recently used dropped first. Safe to share by threads.

    Args:
        size: vectors to keep; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._vectors: OrderedDict[tuple[str, str], array[float]] = OrderedDict()
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, model: str, text: str, compute: Callable[[], list[float]]) -> list[float]:
        """Return the vector of `text`, computed where it is not held; a list of the caller's own.

        Args:
            model: what the vector depends on besides the text, such as a fingerprint.
            text: the query.
            compute: gives its vector.
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
