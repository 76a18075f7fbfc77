"""EarlierSplit: what earlier trainings used and held out, so that a later split keeps to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llama_index_ace_finetune.datasets.splits.manifest import PARTS
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset

EARLIER_FIELD: Final = "earlier_split"
"""Metadata field of a query with its part in an earlier run: train, dev, test, or "mixed" for none of them."""
MIXED: Final = "mixed"


@dataclass(frozen=True)
class EarlierSplit:
    """Text hashes of queries and of positives, by the part of an earlier split that held them."""

    queries: Mapping[str, frozenset[str]]
    answers: Mapping[str, frozenset[str]]

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> EarlierSplit:
        """Return the parts of a `split.json`, or of the "split" in a model's record."""

        def hashes(kind: str, part: str) -> frozenset[str]:
            parts = manifest.get(kind)
            held = parts.get(part) if isinstance(parts, Mapping) else None
            return frozenset(held.values() if isinstance(held, Mapping) else ())

        return cls(*({part: hashes(kind, part) for part in PARTS} for kind in ("queries", "answers")))

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> EarlierSplit | None:
        """Return what a trained model has seen and what was held out for its test; None without a record.

        Test queries that it was trained on later, by a refit on all queries, are those of train.
        """
        if not record:
            return None
        split = cls.of_manifest(record.get("split") or {})
        seen = {**(record.get("seen") or {}), "test": record.get("held_out")}

        def hashes(kind: str, part: str) -> frozenset[str]:
            held = split.queries if kind == "query" else split.answers
            found = held[part] | frozenset((seen.get(part) or {}).get(f"{kind}_hashes") or ())
            return found - hashes(kind, "train") if part == "test" else found

        return cls(*({part: hashes(kind, part) for part in PARTS} for kind in ("query", "answer")))

    def part(self, query: str, positives: Iterable[str]) -> str | None:
        """Return the part of a query text with these texts of positives.

        "train" if its text or a positive was trained on, else "dev" or "test" likewise; "mixed" if it shares something
        with test and with another part; None if it is new.
        """
        hashed, answers = text_hash(query), {text_hash(text) for text in positives}
        found = [p for p in PARTS if hashed in self.queries[p] or not answers.isdisjoint(self.answers[p])]
        if "test" in found and len(found) > 1:
            return MIXED
        return found[0] if found else None


def earlier_parts(dataset: RetrievalDataset, earlier: EarlierSplit | None) -> dict[str, str]:
    """Return the part of an earlier split per query, by `earlier` and by the metadata field `EARLIER_FIELD`.

    Queries that are new are absent.
    """
    found = {}
    for query_id, query in dataset.queries.items():
        positives = [dataset.memories[answer].text for answer in dataset.relevant(query_id)]
        parts = {query.metadata.get(EARLIER_FIELD), earlier.part(query.text, positives) if earlier else None}
        parts &= {*PARTS, MIXED}
        if len(parts) == 1:
            found[query_id] = str(parts.pop())
        elif parts:
            found[query_id] = MIXED if "test" in parts or MIXED in parts else "train"
    return found
