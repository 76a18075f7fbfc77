"""A sequence of `Memory`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import DatasetError


def _can_read(source: Sequence[Any], options: ReadOptions) -> bool:
    return bool(source) and isinstance(source[0], Memory)


def read(memories: Sequence[Any], builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add the memories; raises DatasetError for an element that is none."""
    for index, memory in enumerate(memories):
        location = SourceLocation("memories", 0, f"[{index}]")
        if not isinstance(memory, Memory):
            raise DatasetError(f"{location}: expected a Memory, found {type(memory).__name__}; give memories only.")
        builder.add_memory(memory.id, memory.text, location, memory.metadata)


READER = Reader(
    name="memory_objects",
    signature="a list of Memory",
    sources=(Sequence,),
    can_read=_can_read,
    read=read,
)
