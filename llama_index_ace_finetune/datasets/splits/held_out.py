"""HeldOut: what a split holds out, and further training data without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.splits.manifest import KNOWN_PARTS
from llama_index_ace_finetune.datasets.splits.near_duplicates import near_duplicate_pairs, words
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.text import normalise, text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that a further dataset lost: by a held-out query, and by a held-out answer."""

    queries: int = 0
    answers: int = 0

    def __str__(self) -> str:
        return f"{self.queries} with a held-out query, {self.answers} with a held-out answer"


@dataclass(frozen=True)
class HeldOut:
    """The queries and answers that a training must not see.

    Attributes:
        query_hashes: `text_hash` of the queries.
        answer_hashes: `text_hash` of their positives; queries about known memories have none here.
        queries: the texts of the queries that are known: training data hold those of dev, and only hashes of test.
        near_duplicate: Jaccard similarity from which a query counts as one of `queries`.
    """

    query_hashes: frozenset[str]
    answer_hashes: frozenset[str]
    queries: tuple[str, ...] = ()
    near_duplicate: float = SplitSettings.near_duplicate

    @classmethod
    def of(cls, data: TrainingData, dev: Sequence[TrainingExample], texts: Iterable[str] = ()) -> HeldOut:
        """Return what training data hold out: by their manifest, by their own rows, and the dev examples.

        Args:
            data: with the manifest of its split, if it has one.
            dev: the examples of which dev is made.
            texts: of further held-out queries, such as those of test.
        """
        manifest = data.split or {}
        queries, answers = manifest.get("queries") or {}, manifest.get("answers") or {}
        examples = [*dev, *(example for example in data.examples if example.split not in ("train", None))]
        held = {normalise(text) for text in (*texts, *(example.query for example in examples))}
        positives = {data.memories[identifier] for example in examples for identifier in example.positive_ids}
        return cls(
            query_hashes=_hashes(queries, ("dev", "test", *KNOWN_PARTS)) | {text_hash(text) for text in held},
            answer_hashes=_hashes(answers, ("dev", "test")) | {text_hash(text) for text in positives},
            queries=tuple(sorted(held)),
            near_duplicate=(manifest.get("settings") or {}).get("near_duplicate", SplitSettings.near_duplicate),
        )

    def holds_query(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each text is a held-out query, or a near-duplicate of a known one: bool [n]."""
        exact = np.array([text_hash(text) in self.query_hashes for text in texts], bool)
        return exact | self._is_near(texts)

    def holds_answer(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """Whether each text is a held-out answer: bool [n]."""
        return np.array([text_hash(text) in self.answer_hashes for text in texts], bool)

    def without(self, data: TrainingData) -> tuple[TrainingData, LeftOut]:
        """Return data without examples that have a held-out query or positive, nor negatives that are held out."""
        held_query = self.holds_query([example.query for example in data.examples])
        held = self.holds_answer(data.memories.values())
        answers = {identifier for identifier, is_held in zip(data.memories, held, strict=True) if is_held}
        held_answer = np.array([not answers.isdisjoint(example.positive_ids) for example in data.examples], bool)
        kept = tuple(
            replace(example, negatives=tuple(one for one in example.negatives if one.memory_id not in answers))
            for example, is_held in zip(data.examples, held_query | held_answer, strict=True)
            if not is_held
        )
        left_out = LeftOut(int(held_query.sum()), int((held_answer & ~held_query).sum()))
        return replace(data, examples=kept), left_out

    def _is_near(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Compare one text of each set of words, since equal sets are paired in a chain only."""
        if not self.queries:
            return np.zeros(len(texts), bool)
        keys = [words(normalise(text)) for text in texts]
        held = {words(text) for text in self.queries}
        text_of = {words(text): text for text in (*self.queries, *map(normalise, texts))}
        distinct = list(text_of)
        near = held.copy()
        for pairs in near_duplicate_pairs(list(text_of.values()), self.near_duplicate):
            for one, other in ((distinct[i], distinct[j]) for i, j in pairs.tolist()):
                if (one in held) != (other in held):
                    near.update((one, other))
        return np.array([key in near for key in keys], bool)


def _hashes(kind: object, parts: tuple[str, ...]) -> frozenset[str]:
    held = kind if isinstance(kind, dict) else {}
    return frozenset(hashed for part in parts for hashed in (held.get(part) or {}).values())
