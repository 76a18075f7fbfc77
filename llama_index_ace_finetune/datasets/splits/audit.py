"""Audit of a split: overlaps between its parts, and with the training examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from llama_index_ace_finetune.datasets.splits.components import group_values
from llama_index_ace_finetune.datasets.splits.manifest import KNOWN_PARTS, Split
from llama_index_ace_finetune.datasets.splits.near_duplicates import near_duplicate_pairs
from llama_index_ace_finetune.datasets.text import normalise, text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import LeakageError

_TRAIN = "train"
_EXAMPLES = 3
_SHOWN = 60


class TrainingRow(Protocol):
    """The ids of a training example, as an audit reads them."""

    @property
    def query_id(self) -> str:
        """Id of the query."""

    @property
    def positive_ids(self) -> tuple[str, ...]:
        """Memory ids of its positives."""

    @property
    def negative_ids(self) -> tuple[str, ...]:
        """Memory ids of its negatives."""


@dataclass(frozen=True)
class Overlap:
    """One kind of overlap: its count, whether it is forbidden, and the first ids."""

    name: str
    meaning: str
    count: int
    forbidden: bool
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """The overlaps of a split, in a fixed order."""

    name: str
    overlaps: tuple[Overlap, ...]

    @property
    def passed(self) -> bool:
        """Whether every forbidden overlap is zero."""
        return not any(overlap.forbidden and overlap.count for overlap in self.overlaps)

    def count(self, name: str) -> int:
        """Return the count of the overlap of that name; raises KeyError for a name that was not audited."""
        return {overlap.name: overlap.count for overlap in self.overlaps}[name]

    def lines(self) -> list[str]:
        """Return the audit as text: a line per overlap, then the verdict."""
        width = max(len(overlap.meaning) for overlap in self.overlaps)
        lines = []
        for overlap in self.overlaps:
            verdict = "" if not overlap.forbidden else "ok" if not overlap.count else "FORBIDDEN"
            examples = f"  {', '.join(overlap.examples)}" if overlap.count and overlap.examples else ""
            lines.append(f"{overlap.meaning:<{width}}  {overlap.count:>7,}  {verdict}{examples}".rstrip())
        verdict = "passed" if self.passed else "FAILED"
        return [*lines, f"audit of {self.name}: {verdict}"]


def audit_split(
    dataset: RetrievalDataset,
    split: Split,
    training_examples: Iterable[TrainingRow] | None = None,
    *,
    forbid_held_out_negatives: bool = True,
) -> Audit:
    """Count the overlaps between the parts of a split, and between training examples and what is held out.

    Query texts, answers and groups are compared between train, dev and test; training examples with dev and test.
    Queries about known memories (`dev_known`, `test_known`) are held out too, but their answers and groups belong to
    train.
    Near-duplicate answers in two parts are counted but allowed, and so is a query that equals a memory: the memory may
    be relevant to it. `forbid_held_out_negatives=False` also allows held-out answers as training negatives, for a loss
    over the whole corpus. Raises nothing: see `require_clean`.
    """
    parts = _Parts(dataset, split)
    overlaps = [
        parts.changed(),
        parts.shared("query_id", "query ids in two parts", lambda i: [i]),
        parts.shared("query_equal", "equal query texts in two parts", lambda i: [parts.texts[i]]),
        parts.near(),
        parts.shared("shared_answer", "answers relevant to queries of two parts", dataset.relevant, by_memory=True),
        parts.near_answers(),
        parts.query_as_answer(),
        parts.query_as_memory(),
    ]
    if len(split.held_parts) > len(parts.by_memory):
        overlaps.append(parts.not_known())
    field = split.settings.group_field
    if field is not None:
        values = partial(group_values, dataset, field=field)
        overlaps.append(parts.shared("group", f"values of {field} in two parts", values))
    if training_examples is not None:
        overlaps.extend(parts.training(training_examples, forbid_held_out_negatives))
    return Audit(split.name, tuple(overlaps))


def audit_model(
    split: Split, record: Mapping[str, Any], *, name: str = "model", allowed: Collection[str] = ()
) -> tuple[Overlap, ...]:
    """Count the dev and test queries of a split that a model was trained on.

    Args:
        split: which holds them out.
        record: of the model (`ace_finetune.json`).
        name: of the model.
        allowed: "dev", "test" or both, if it was trained on these queries on purpose, by a refit.
    """
    trained = frozenset(((record.get("seen") or {}).get("train") or {}).get("query_hashes") or ())
    found = []
    for part in ("dev", "test"):
        ids = [i for i in (*split.part(part), *split.part(f"{part}_known")) if split.query_hashes[i] in trained]
        meaning = f"{part} queries that the {name} was trained on" + (" (by a refit)" if part in allowed else "")
        found.append(_overlap(f"{name}_{part}".replace(" ", "_"), meaning, ids, forbidden=part not in allowed))
    return tuple(found)


def require_clean(audit: Audit) -> None:
    """Raise LeakageError if the audit did not pass."""
    found = [f"{o.count} {o.meaning}" for o in audit.overlaps if o.forbidden and o.count]
    if found:
        raise LeakageError(f"{audit.name}: the split leaks ({'; '.join(found)}); make it and the training data again.")


class _Parts:
    """The queries of a split that the dataset still has, with their texts."""

    def __init__(self, dataset: RetrievalDataset, split: Split) -> None:
        self.dataset = dataset
        self.split = split
        self.ids = {name: [i for i in split.part(name) if i in dataset.queries] for name in split.held_parts}
        self.by_memory: dict[str, list[str]] = defaultdict(list)
        for name, ids in self.ids.items():
            self.by_memory[_TRAIN if name in KNOWN_PARTS else name].extend(ids)
        self.texts = {i: normalise(dataset.queries[i].text) for ids in self.ids.values() for i in ids}
        self.parts_of_text: dict[str, set[str]] = defaultdict(set)
        for name, ids in self.ids.items():
            for i in ids:
                self.parts_of_text[self.texts[i]].add(name)
        self.parts_of_answer: dict[str, set[str]] = defaultdict(set)
        for name, ids in self.by_memory.items():
            for answer in {a for i in ids for a in dataset.relevant(i)}:
                self.parts_of_answer[normalise(dataset.memories[answer].text)].add(name)

    def changed(self) -> Overlap:
        """Queries and answers that are gone or have another text than when the split was made."""
        split, dataset = self.split, self.dataset
        rows = (
            *((i, h, dataset.queries.get(i)) for i, h in split.query_hashes.items()),
            *((i, h, dataset.memories.get(i)) for i, h in split.answer_hashes.items()),
        )
        found = [i for i, hashed, row in rows if row is None or text_hash(row.text) != hashed]
        return _overlap("changed", "ids of the split whose text is gone or changed", found, forbidden=True)

    def not_known(self) -> Overlap:
        """Queries about known memories with an answer that is relevant to no train query."""
        known = {answer for i in self.ids[_TRAIN] for answer in self.dataset.relevant(i)}
        held = [i for name in KNOWN_PARTS for i in self.ids.get(name, ())]
        found = [i for i in held if not self.dataset.relevant(i) <= known]
        return _overlap("not_known", "queries about known memories that no train query has", found, forbidden=True)

    def shared(
        self, name: str, meaning: str, keys: Callable[[str], Iterable[str]], *, by_memory: bool = False
    ) -> Overlap:
        """Keys of queries that are in more than one part; with `by_memory`, of those that divide the memories."""
        parts: dict[str, set[str]] = defaultdict(set)
        for part, ids in (self.by_memory if by_memory else self.ids).items():
            for i in ids:
                for key in keys(i):
                    parts[key].add(part)
        return _overlap(name, meaning, [key for key, held in parts.items() if len(held) > 1], forbidden=True)

    def near(self) -> Overlap:
        """Pairs of near-duplicate query texts in different parts."""
        meaning = "pairs of near-duplicate query texts in two parts"
        return self._near("query_near", meaning, self.parts_of_text, forbidden=True)

    def near_answers(self) -> Overlap:
        """Pairs of near-duplicate answers: a held-out one that almost equals a trained one is easier to find."""
        meaning = "pairs of near-duplicate answers in two parts"
        return self._near("answer_near", meaning, self.parts_of_answer, forbidden=False)

    def _near(self, name: str, meaning: str, parts_of: Mapping[str, set[str]], *, forbidden: bool) -> Overlap:
        texts = sorted(parts_of)
        found = []
        for pairs in near_duplicate_pairs(texts, self.split.settings.near_duplicate):
            for i, j in pairs.tolist():
                if parts_of[texts[i]] != parts_of[texts[j]]:
                    found.append(f"{texts[i][:_SHOWN]!r} ~ {texts[j][:_SHOWN]!r}")
        return _overlap(name, meaning, found, forbidden=forbidden)

    def query_as_answer(self) -> Overlap:
        """Queries whose text equals a relevant answer of another part."""
        parts = self.parts_of_answer
        found = [i for part, ids in self.by_memory.items() for i in ids if parts.get(self.texts[i], set()) - {part}]
        return _overlap(
            "query_is_answer", "queries that equal a relevant answer of another part", found, forbidden=True
        )

    def query_as_memory(self) -> Overlap:
        """Queries whose text equals a memory."""
        memories = {normalise(memory.text) for memory in self.dataset.answers.values()}
        found = [i for i, text in self.texts.items() if text in memories]
        return _overlap("query_is_memory", "queries that equal a memory", found, forbidden=False)

    def training(self, rows: Iterable[TrainingRow], forbid: bool) -> list[Overlap]:
        """Overlaps of training examples with dev and test."""
        held_out_texts = {self.texts[i] for part, ids in self.ids.items() if part != _TRAIN for i in ids}
        held_out = {a for part in ("dev", "test") for i in self.ids[part] for a in self.dataset.relevant(i)}
        train = set(self.split.train)
        answer_ids = self.dataset.answer_ids
        queries: set[str] = set()
        not_in_train: set[str] = set()
        positives: set[str] = set()
        negatives: set[str] = set()
        with_false_negatives: set[str] = set()
        for row in rows:
            query = self.dataset.queries.get(row.query_id)
            if query is not None and normalise(query.text) in held_out_texts:
                queries.add(row.query_id)
            if row.query_id not in train:
                not_in_train.add(row.query_id)
            positives.update(_answers(row.positive_ids, answer_ids) & held_out)
            negatives.update(_answers(row.negative_ids, answer_ids) & held_out)
            if query is not None and _answers(row.negative_ids, answer_ids) & self.dataset.relevant(row.query_id):
                with_false_negatives.add(row.query_id)
        return [
            _overlap("training_query_foreign", "training queries that are not in train", not_in_train, forbidden=True),
            _overlap("training_query_held_out", "training queries with a held-out text", queries, forbidden=True),
            _overlap("training_positive", "held-out answers used as training positives", positives, forbidden=True),
            _overlap("training_negative", "held-out answers used as training negatives", negatives, forbidden=forbid),
            _overlap(
                "negative_is_right",
                "training queries with a positive among the negatives",
                with_false_negatives,
                forbidden=True,
            ),
        ]


def _answers(memory_ids: Iterable[str], answer_ids: Mapping[str, str]) -> set[str]:
    return {answer_ids.get(memory_id, memory_id) for memory_id in memory_ids}


def _overlap(name: str, meaning: str, found: Iterable[str], *, forbidden: bool) -> Overlap:
    listed = sorted(found)
    return Overlap(name, meaning, len(listed), forbidden, tuple(text[:120] for text in listed[:_EXAMPLES]))
