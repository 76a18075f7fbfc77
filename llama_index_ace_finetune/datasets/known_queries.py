"""KnownQueries: queries that a model was trained on, with the memories that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset


@dataclass(frozen=True, slots=True)
class KnownQueries:
    """Distinct query texts, and the answer ids that are relevant to each."""

    texts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, dataset: RetrievalDataset, record: Mapping[str, Any] | None) -> KnownQueries:
        """Return the queries of a dataset that a model was trained on, by its record (`ace_finetune.json`).

        Queries that its split holds out are never among them.
        """
        seen = ((record or {}).get("seen") or {}).get("train") or {}
        parts = ((record or {}).get("split") or {}).get("queries") or {}
        held_out = {hashed for name, held in parts.items() if name != "train" for hashed in held.values()}
        wanted = set(seen.get("query_hashes") or ()) - held_out
        found: dict[str, tuple[str, tuple[str, ...]]] = {}
        for query_id, query in dataset.queries.items():
            hashed = text_hash(query.text)
            if hashed in wanted and dataset.relevant(query_id):
                found.setdefault(hashed, (query.text, tuple(sorted(dataset.relevant(query_id)))))
        return cls(tuple(text for text, _ in found.values()), tuple(answers for _, answers in found.values()))
