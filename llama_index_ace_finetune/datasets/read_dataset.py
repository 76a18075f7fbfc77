"""read_dataset: data of any known format as a RetrievalDataset."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.open_data import name_of, open_data
from llama_index_ace_finetune.datasets.piped import piped
from llama_index_ace_finetune.datasets.readers.ace_folder import find_ace_files
from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.query_mapping import RelevantIds, read_query_mapping
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.readers.register import FORMATS, READERS
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.datasets.unused_memories import unused_memories
from llama_index_ace_finetune.errors import DatasetError

logger = logging.getLogger(__name__)

Source: TypeAlias = Any
"""A path, a sequence of LlamaIndex nodes or of `Memory`, or a `datasets.Dataset`."""


def read_dataset(
    source: Source,
    memories: Source | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the field's own name
    queries: Mapping[str, RelevantIds] | None = None,
    columns: str | Mapping[str, str] | None = None,
) -> RetrievalDataset:
    """Read a dataset of any known format, as the public `read_dataset` (`stores/read_dataset.py`) documents it.

    `source` is a path (an ACE suite, inventory, playbook or skillbook, a folder of them, a BEIR folder, an
    EmbeddingQAFinetuneDataset, pairs or a list of memories as CSV, TSV, JSON Lines, JSON or Parquet; text files may be
    gzipped), a sequence of LlamaIndex nodes, or a `datasets.Dataset`. `memories` is a second source whose memories join
    the corpus (an inventory, a playbook, a BEIR corpus.jsonl, a table with ids and texts, nodes); an id that both hold
    keeps the text of `source`. `format` is one of `FORMATS`, the only one to try. `queries` maps query texts to
    the ids of their positives, for sources with only memories. `columns` names the columns of a table, as
    `"query=question,text=context"` or a mapping of the same (see `ColumnChoice`).

    Rows that cannot be used are counted in the ledger and left out.

    Raises DatasetError: one sentence with the file and, if there is one, the line.
    """
    if format is not None and format not in FORMATS:
        raise DatasetError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    choice = ColumnChoice.of(columns)
    name, given, used = name_of(source), source, memories
    if isinstance(source, (str, Path)) and format in (None, "ace_suite") and not choice.names:
        source, inventory = find_ace_files(Path(source))
        used = inventory if memories is None else memories
    builder = _read(source, ReadOptions(format, choice))
    builder.name = name
    if used is not None:
        options = ReadOptions(columns=choice, memories_only=True)
        builder.add_memories_of(_read(used, options), SourceLocation(name_of(used)))
    if queries is not None:
        read_query_mapping(queries, builder)
    if memories is None and isinstance(given, (str, Path)):
        _report_unused(builder, Path(given), [source, used])
    return builder.build(source if isinstance(source, (str, Path)) else name)


def _report_unused(builder: DatasetBuilder, source: Path, used: Sequence[Source]) -> None:
    """Log and note the files of memories beside the data; a folder that is read as a whole has none."""
    if not (builder.queries and source.exists()) or (source.is_dir() and source in used):
        return
    files = unused_memories(
        source,
        lambda path: _read(path, ReadOptions()),
        held=builder.memories,
        named=builder.named_memories(),
        used=[Path(path) for path in used if isinstance(path, (str, Path))],
    )
    for unused in files:
        builder.ledger.note("memories_not_used", unused.path, f"{unused.count} memories")
        if builder.judgements:  # otherwise the error of `build` names it
            logger.warning("%s", unused)


def _read(source: Source, options: ReadOptions) -> DatasetBuilder:
    with _local(source) as data:
        builder = DatasetBuilder(name_of(data), "")
        reader, opened = _recognise(data, builder, options)
        if isinstance(opened, (Path, JsonDocument)) and options.columns.names and not options.memories_only:
            raise DatasetError(
                f"{data}: --columns names columns of a table, and this was read as {reader.name}; leave it out."
            )
        builder.ledger.format = reader.name
        reader.read(opened, builder, options)
        return builder


def _recognise(source: Source, builder: DatasetBuilder, options: ReadOptions) -> tuple[Reader, Any]:
    """Return the first reader that can read the data, and the data as it reads them; raises DatasetError."""
    readers = [reader for reader in READERS if options.format in (None, reader.name)]
    opened = None
    for opened in open_data(source, builder, options.columns):
        for reader in readers:
            if isinstance(opened, reader.sources) and reader.can_read(opened, options):
                return reader, opened
    raise _unknown_format(source, opened, options)


@contextmanager
def _local(source: Source) -> Iterator[Source]:
    """Give a path as a Path that can be read more than once, anything else as it is."""
    if isinstance(source, (str, Path)):
        with piped(Path(source)) as path:
            yield path
    else:
        yield source


def _unknown_format(source: Source, opened: Any, options: ReadOptions) -> DatasetError:
    """Return an error that lists the formats which data of this kind may have."""
    wanted = f" as {options.format}" if options.format else ""
    if not isinstance(source, Path):
        return DatasetError(
            f"Data of type {type(source).__name__} is not understood{wanted}; give a path, LlamaIndex nodes or a "
            "datasets.Dataset."
        )
    if wanted:
        return DatasetError(f"{source}: this cannot be read{wanted}; leave the format out, or name the right one.")
    known = "; ".join(reader.signature for reader in READERS if isinstance(opened, reader.sources))
    if source.is_dir():
        return DatasetError(
            f"{source}: this folder is of no known format ({known}), and holds no ACE test suite; give the file itself."
        )
    return DatasetError(f"{source}, line 1: the JSON is not of a known format; {known}.")
