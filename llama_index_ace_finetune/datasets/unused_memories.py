"""Find files of memories that lie beside the data and are not used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.errors import AceFinetuneError

_FORMATS: Final = frozenset({"ace_inventory", "ace_playbook", "llama_docstore", "beir"})
_TABLES: Final = frozenset({"memories"})
_SUFFIXES: Final = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
_MAX_FILES: Final = 30
_MAX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class UnusedMemories:
    """A file of memories, and the number of those that the data lack."""

    path: Path
    count: int

    def __str__(self) -> str:
        return f"{self.path} holds {self.count:,} more memories and is not used; add --memories {self.path}"


def unused_memories(
    source: Path,
    read: Callable[[Path], DatasetBuilder],
    *,
    held: Collection[str],
    named: Collection[str] = (),
    used: Iterable[Path] = (),
) -> list[UnusedMemories]:
    """Return the inventories, playbooks and corpora in the folder of `source` that hold further memories.

    A table of memories counts if it has any of the ids that are held or named. Files that cannot be read or are large
    are skipped, and so are all but the first of very many.

    Args:
        source: the file of the data, or its folder.
        read: reads a file as memories.
        held: ids of the memories whose texts the data hold.
        named: ids of memories that its judgements name.
        used: files that are read already.
    """
    folder = source if source.is_dir() else source.parent
    skipped = {path.resolve() for path in (source, *used)}
    found = []
    for path in sorted(itertools.islice((p for p in folder.glob("*") if p.suffix in _SUFFIXES), _MAX_FILES)):
        if path.resolve() in skipped or not path.is_file() or path.stat().st_size > _MAX_BYTES:
            continue
        try:
            builder = read(path)
        except AceFinetuneError:
            continue
        ids, kind = set(builder.memories), builder.ledger.format
        same = not (ids.isdisjoint(held) and ids.isdisjoint(named))
        if builder.queries or not (kind in _FORMATS or (kind in _TABLES and same)):
            continue
        if more := len(ids.difference(held)):
            found.append(UnusedMemories(path, more))
    return found
