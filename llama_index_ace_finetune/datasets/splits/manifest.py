"""Split: ids, hashes, counts and notes, as `split.json` holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.text_files import read_json
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.atomic import write_json

SPLIT_VERSION = 1
PARTS = ("train", "dev", "test")
KNOWN_PARTS = ("dev_known", "test_known")
"""Held-out queries about memories that train queries are about too."""


@dataclass(frozen=True)
class Split:
    """Query ids and relevant answers per part, with hashes that show later whether a text changed.

    `answers[part]` holds answer ids of train, dev and test, sorted. `query_hashes` and `answer_hashes` hold the
    `text_hash` of every query and of every relevant answer. `without_answer` are the queries without a relevant answer;
    they are in no part. `dev_known` and `test_known` are held-out queries whose relevant answers are all in train.
    """

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    query_hashes: Mapping[str, str]
    answer_hashes: Mapping[str, str]
    settings: SplitSettings
    components: int = 0
    largest_component: int = 0
    without_answer: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dev_known: tuple[str, ...] = ()
    test_known: tuple[str, ...] = ()

    def part(self, name: str) -> tuple[str, ...]:
        """Return the query ids of a part in `PARTS` or `KNOWN_PARTS`; raises DatasetError for another name."""
        if name not in (*PARTS, *KNOWN_PARTS):
            raise DatasetError(f"Split: there is no part {name!r}; name one of train, dev, test.")
        ids: tuple[str, ...] = getattr(self, name)
        return ids

    @property
    def held_parts(self) -> tuple[str, ...]:
        """The names of the parts: train, dev and test, and those of queries about known memories that hold any."""
        return (*PARTS, *(name for name in KNOWN_PARTS if self.part(name)))

    @classmethod
    def of(
        cls, dataset: RetrievalDataset, parts: Mapping[str, Iterable[str]], settings: SplitSettings, **rest: Any
    ) -> Split:
        """Return the split with these query ids per part; ids are sorted, answers and hashes come from the dataset."""
        ids = {name: tuple(sorted(parts.get(name, ()))) for name in (*PARTS, *KNOWN_PARTS)}
        answers = {name: tuple(sorted({a for i in ids[name] for a in dataset.relevant(i)})) for name in PARTS}
        return cls(
            name=dataset.name,
            train=ids["train"],
            dev=ids["dev"],
            test=ids["test"],
            answers=answers,
            query_hashes={i: text_hash(dataset.queries[i].text) for held in ids.values() for i in held},
            answer_hashes={a: text_hash(dataset.memories[a].text) for name in PARTS for a in answers[name]},
            settings=settings,
            dev_known=ids["dev_known"],
            test_known=ids["test_known"],
            **rest,
        )

    def manifest(self) -> dict[str, Any]:
        """Return the split as JSON values: the content of `split.json`."""
        return {
            "version": SPLIT_VERSION,
            "name": self.name,
            "settings": asdict(self.settings),
            "counts": {
                **{name: {"queries": len(self.part(name)), "answers": len(self.answers[name])} for name in PARTS},
                **{name: {"queries": len(self.part(name))} for name in self.held_parts if name in KNOWN_PARTS},
                "without_answer": len(self.without_answer),
                "components": self.components,
                "largest_component": self.largest_component,
            },
            "notes": list(self.notes),
            "queries": {name: {i: self.query_hashes[i] for i in self.part(name)} for name in self.held_parts},
            "answers": {name: {a: self.answer_hashes[a] for a in self.answers[name]} for name in PARTS},
            "without_answer": list(self.without_answer),
        }

    def save(self, path: str | Path) -> None:
        """Write `split.json`, whole or not at all; raises DatasetError if the path cannot be written."""
        try:
            write_json(Path(path), self.manifest())
        except OSError as error:
            raise DatasetError(f"{path}: the split cannot be written ({error}); choose another path.") from error

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read a `split.json`; raises DatasetError for one that is damaged or of another version."""
        path = Path(path)
        value = read_json(path)
        if not isinstance(value, dict) or value.get("version") != SPLIT_VERSION:
            raise DatasetError(f"{path}: this is not a split of version {SPLIT_VERSION}; make the split again.")
        try:
            return _from_manifest(value)
        except (KeyError, TypeError, AttributeError, ValueError, DatasetError) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            raise DatasetError(f"{path}: the split is damaged ({reason}); make the split again.") from error


def _from_manifest(value: dict[str, Any]) -> Split:
    queries = {name: _strings(value["queries"][name]) for name in PARTS}
    queries |= {name: _strings(value["queries"].get(name, {})) for name in KNOWN_PARTS}
    answers = {name: _strings(value["answers"][name]) for name in PARTS}
    known = {field.name for field in fields(SplitSettings)}
    return Split(
        name=str(value["name"]),
        train=tuple(queries["train"]),
        dev=tuple(queries["dev"]),
        test=tuple(queries["test"]),
        answers={name: tuple(answers[name]) for name in PARTS},
        query_hashes={i: h for hashes in queries.values() for i, h in hashes.items()},
        answer_hashes={a: h for name in PARTS for a, h in answers[name].items()},
        settings=SplitSettings(**{"known": 0.0, **{k: v for k, v in value["settings"].items() if k in known}}),
        components=int(value["counts"]["components"]),
        largest_component=int(value["counts"]["largest_component"]),
        without_answer=tuple(str(i) for i in value["without_answer"]),
        notes=tuple(str(note) for note in value["notes"]),
        dev_known=tuple(queries["dev_known"]),
        test_known=tuple(queries["test_known"]),
    )


def _strings(value: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(hashed, str) for hashed in value.values()):
        raise TypeError("a hash is not a string")
    return value
