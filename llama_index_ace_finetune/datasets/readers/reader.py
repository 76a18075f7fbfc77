"""Reader: how one data format is recognised and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the caller describes the data.

    Attributes:
        format: name of the only format to try; None tries all.
        columns: names of the columns of a table.
        memories_only: the data are the second source, of which only the memories are used.
    """

    format: str | None = None
    columns: ColumnChoice = field(default_factory=ColumnChoice)
    memories_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A data format. A new one is a file in this folder with a `READER`, and its name in `register.FORMATS`.

    Attributes:
        name: as `read_dataset(format=...)` takes it, and the name of its file.
        signature: what it is recognised by, for the error that lists the formats: "a playbook has 'bullets'".
        sources: the types of opened data that it can read: `Path` (a folder), `JsonDocument`, `Table`, `Sequence`.
        can_read: whether the opened data are of this format, or may be read as it when the options name it.
        read: adds memories, queries and judgements to the builder; raises DatasetError.
    """

    name: str
    signature: str
    sources: tuple[type, ...]
    can_read: Callable[[Any, ReadOptions], bool]
    read: Callable[[Any, DatasetBuilder, ReadOptions], None]
