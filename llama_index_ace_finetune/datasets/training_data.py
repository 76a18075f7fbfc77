"""training_data.json: the fields of the original with ids, scores, the corpus and the split."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from types import NoneType
from typing import Any

from llama_index_ace_finetune.datasets.splits.manifest import PARTS
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.errors import DatasetError, quoted
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.old_settings import current_metadata
from llama_index_ace_finetune.utils.read_json import read_json_file

FORMAT_VERSION = "3.1"
_TRAINING_DATA = Refusal("The training data", "generate it again", DatasetError)
_MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class HardNegative:
    """A negative that current retrieval ranks high: its id, the source that found it, its score and rank there."""

    memory_id: str
    source: str = ""
    score: float | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One query with all its known positives and the negatives mined for it.

    `own_id` is the memory that is the query itself, if queries are memories; it is neither positive nor negative.
    """

    query_id: str
    query: str
    positive_ids: tuple[str, ...]
    negatives: tuple[HardNegative, ...] = ()
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    own_id: str | None = None

    @property
    def negative_ids(self) -> tuple[str, ...]:
        """Ids of the mined negatives, hardest first."""
        return tuple(negative.memory_id for negative in self.negatives)


@dataclass(frozen=True)
class TrainingData:
    """Examples by id, and the corpus that their ids refer to.

    `memories` maps ids to texts (distinct texts), `memory_metadata` to their metadata (category,
    severity); `split` is the manifest of the split that the examples come from, None for files without one.
    `metadata["generated_at"]` is the time of the data that the examples come from (see `modified_at`), not of the run,
    so that the same data give the same file.
    """

    examples: tuple[TrainingExample, ...]
    memories: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] | None = None
    memory_metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def examples_of(self, part: str) -> list[TrainingExample]:
        """Return the examples of "train", "dev" or "test"."""
        return [example for example in self.examples if example.split == part]

    def sample(self, count: int, *, seed: int) -> TrainingData:
        """Return the data with at most `count` random examples in their order; the parts keep their proportions."""
        if count >= len(self.examples):
            return self
        parts: dict[str | None, list[int]] = {}
        for place, example in enumerate(self.examples):
            parts.setdefault(example.split, []).append(place)
        generator = random.Random(seed)
        # Evenly spread: if two of ten examples are dev, every fifth drawn is dev.
        drawn = [
            ((rank + 0.5) / len(places), place)
            for places in parts.values()
            for rank, place in enumerate(generator.sample(places, len(places)))
        ]
        kept = sorted(place for _, place in sorted(drawn)[: max(count, 0)])
        return replace(self, examples=tuple(self.examples[place] for place in kept))

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_json(path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file as JSON values."""
        rows = []
        for example in self.examples:
            row: dict[str, Any] = {
                "query": example.query,
                "positive": self.memories[example.positive_ids[0]],
                "negatives": [self.memories[negative.memory_id] for negative in example.negatives],
                "metadata": dict(example.metadata),
                "query_id": example.query_id,
                "positive_ids": list(example.positive_ids),
                "negative_ids": list(example.negative_ids),
                "negative_sources": [negative.source for negative in example.negatives],
                "negative_scores": [negative.score for negative in example.negatives],
                "negative_ranks": [negative.rank for negative in example.negatives],
            }
            if example.split:
                row["split"] = example.split
            if example.own_id is not None:
                row["own_id"] = example.own_id
            rows.append(row)
        # Ours come last: metadata that were read from a file may belong to other examples.
        metadata = {
            **self.metadata,
            "total_examples": len(rows),
            "generated_at": self.metadata.get("generated_at"),
            "format_version": FORMAT_VERSION,
        }
        return {
            "metadata": metadata,
            "examples": rows,
            "memories": dict(self.memories),
            "memory_metadata": {identifier: dict(value) for identifier, value in self.memory_metadata.items()},
            "split": self.split,
        }

    @classmethod
    def load(cls, path: Path) -> TrainingData:
        """Read a file of this package or of the original (texts only, no ids).

        Raises:
            DatasetError: naming the file, and the line or the example that is wrong.
        """
        document = read_json_file(path, _TRAINING_DATA, max_bytes=_MAX_BYTES)
        rows = document.get("examples") if isinstance(document, dict) else None
        if not isinstance(rows, list) or not rows:
            raise DatasetError(
                f"{str(path)!r} holds no training examples (a non-empty list 'examples'); generate it again."
            )
        corpus = document.get("memories") or {}
        if not isinstance(corpus, dict) or not all(isinstance(text, str) for text in corpus.values()):
            raise DatasetError(f"{str(path)!r}: 'memories' must map ids to texts; generate it again.")
        metadata = document.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise DatasetError(f"{str(path)!r}: 'metadata' must be an object; generate it again.")
        if metadata.get("format_version") == "3.0":
            metadata = {**current_metadata(metadata), "format_version": FORMAT_VERSION}
        reader = _ExampleReader(path, corpus)
        examples = tuple(reader.read(number, row) for number, row in enumerate(rows))
        split = document.get("split")
        return cls(
            examples=examples,
            memories=reader.memories,
            metadata=metadata,
            split=split if isinstance(split, dict) else None,
            memory_metadata=_memory_metadata(document.get("memory_metadata"), path),
        )


def is_training_data(path: Path) -> bool:
    """Return whether a JSON file holds training examples, as `TrainingData.load` reads them."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        document = read_json_file(path, _TRAINING_DATA, max_bytes=_MAX_BYTES)
    except DatasetError:
        return False  # whoever reads it as other data says what is wrong
    return isinstance(document, dict) and isinstance(document.get("examples"), list)


def _memory_metadata(value: Any, path: Path) -> dict[str, dict[str, Any]]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise DatasetError(f"{str(path)!r}: 'memory_metadata' must map ids to objects; generate it again.")
    return value


def modified_at(*sources: str | Path | None, without: Path | None = None) -> str | None:
    """Return when these files were last changed, as ISO time in UTC: the newest of them, and of all files in folders.

    Hidden files of folders and the file `without` do not count. None if there is no file, as for a dataset made in
    memory.
    """
    paths = [Path(source) for source in sources if source]
    inside = [file for path in paths if path.is_dir() for file in path.rglob("*") if not file.name.startswith(".")]
    skipped = without.resolve() if without else None
    files = [file for file in [*paths, *inside] if file.is_file() and file.resolve() != skipped]
    if not files:
        return None
    newest = max(file.stat().st_mtime for file in files)
    return datetime.fromtimestamp(newest, timezone.utc).isoformat(timespec="seconds")


class _ExampleReader:
    """Turns rows into examples; rows without ids get them from their texts."""

    def __init__(self, path: Path, corpus: Mapping[str, str]) -> None:
        self.memories: dict[str, str] = dict(corpus)
        self._path = path
        self._by_text = {normalise(text): identifier for identifier, text in self.memories.items()}

    def read(self, number: int, row: Any) -> TrainingExample:
        where = f"{str(self._path)!r}, example {number}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("query", "positive")):
            raise DatasetError(f"{where}: needs the texts 'query' and 'positive'; generate the file again.")
        texts = row.get("negatives") or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DatasetError(f"{where}: 'negatives' must be a list of texts; generate the file again.")
        metadata = row.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise DatasetError(f"{where}: 'metadata' must be an object; generate the file again.")
        if row.get("split") not in (None, *PARTS):
            # An unknown part would be trained on.
            raise DatasetError(f"{where}: 'split' is {quoted(row['split'])}; it must be one of {', '.join(PARTS)}.")
        positive_ids = _list(row, "positive_ids", where) or [self._id_of(row["positive"])]
        negative_ids = _list(row, "negative_ids", where) or [self._id_of(text) for text in texts]
        own = row.get("own_id")
        for identifier in [*positive_ids, *negative_ids, *([] if own is None else [own])]:
            if not isinstance(identifier, str) or identifier not in self.memories:
                raise DatasetError(
                    f"{where}: memory {quoted(identifier)} is not among the file's 'memories'; "
                    "it was made for another corpus, generate it again."
                )
        count = len(negative_ids)
        sources, scores, ranks = (
            _list(row, name, where, length=count) or [default] * count
            for name, default in (("negative_sources", ""), ("negative_scores", None), ("negative_ranks", None))
        )
        self._check_types(sources, scores, ranks, where)
        return TrainingExample(
            query_id=str(row.get("query_id", number)),
            query=row["query"],
            positive_ids=tuple(positive_ids),
            negatives=tuple(
                HardNegative(memory_id=i, source=source, score=score, rank=rank)
                for i, source, score, rank in zip(negative_ids, sources, scores, ranks, strict=True)
                if i not in positive_ids
            ),
            split=row.get("split"),
            metadata=metadata,
            own_id=own,
        )

    @staticmethod
    def _check_types(sources: list[Any], scores: list[Any], ranks: list[Any], where: str) -> None:
        for name, values, known in (
            ("negative_sources", sources, (str,)),
            ("negative_scores", scores, (int, float, NoneType)),
            ("negative_ranks", ranks, (int, NoneType)),
        ):
            wrong = [value for value in values if not isinstance(value, known)]
            if wrong:
                raise DatasetError(f"{where}: {name!r} holds {quoted(wrong[0])}; generate the file again.")

    def _id_of(self, text: str) -> str:
        key = normalise(text)
        if key not in self._by_text:
            number = len(self.memories)
            while (identifier := f"text-{number}") in self.memories:
                number += 1
            self.memories[identifier] = text
            self._by_text[key] = identifier
        return self._by_text[key]


def _list(row: Mapping[str, Any], name: str, where: str, *, length: int | None = None) -> list[Any]:
    """Return a list of the row, empty if it has none; if it is there, it must have `length` items."""
    value = row.get(name) or []
    if not isinstance(value, list) or (value and length is not None and len(value) != length):
        size = "" if length is None else f" of {length}, one for each negative"
        raise DatasetError(f"{where}: {name!r} must be a list{size}; generate the file again.")
    return value
