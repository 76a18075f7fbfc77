"""KnownField: BM25 over the texts of a store's memories and the known queries about them."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.ranking.bm25 import BM25Settings
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.known_field import FIELD_LEGS, with_known_field
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.fork import fork_safe_lock


class KnownField:
    """Makes a BM25 leg with known queries as a field, which follows the writes to the store as every lexical leg.

    Known queries belong to the text of a memory, so one that is written with another text has none any more.

    Args:
        store: of the memories.
        stored: the known queries; None, or those without texts, give no leg.
        settings: parameters of BM25.
    """

    def __init__(self, store: MemoryStore, stored: StoredKnownQueries | None, settings: BM25Settings | None) -> None:
        self._store, self._settings = store, settings
        self._texts = {} if stored is None else stored.texts_of_memories()
        self._legs: dict[tuple[Leg, int], LexicalLeg] = {}  # by weight
        self._lock = fork_safe_lock()

    def leg(self, leg: Leg, weight: int) -> LexicalLeg | None:
        """Return a BM25 leg with a weight of the known queries.

        None for weight 0, for another leg, or without known queries.
        """
        if not weight or not self._texts or leg not in FIELD_LEGS:
            return None
        with self._lock:
            if (leg, weight) not in self._legs:
                self._legs[leg, weight] = LexicalLeg(
                    self._store, leg, settings=self._settings, text_of=lambda text: self._text(text, weight)
                )
            return self._legs[leg, weight]

    def refresh(self) -> None:
        """Rebuild the indexes from the store before the next search."""
        for leg in list(self._legs.values()):
            leg.refresh()

    def _text(self, text: str, weight: int) -> str:
        return with_known_field(text, self._texts.get(text_hash(text), ()), weight)
