"""open_data: turn a path or Python object into the forms that readers take: folder, JSON document, table, nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers import arrow_tables, delimited, memories, pairs
from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.readers.column_names import squash
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.table import Row, Table
from llama_index_ace_finetune.datasets.text_files import empty_file, iterate_json_lines, json_type
from llama_index_ace_finetune.errors import DatasetError


def open_data(source: Any, builder: DatasetBuilder, choice: ColumnChoice) -> Iterator[Any]:
    """Yield the forms in which the data can be read, the likeliest first: a list in JSON is a document and a table.

    Rows that cannot be read are counted by the builder. Raises DatasetError.
    """
    if isinstance(source, Path):
        yield from _open_path(source, builder, choice)
    elif arrow_tables.is_arrow_dataset(source):
        yield Table(arrow_tables.iterate_arrow_dataset(source), "datasets.Dataset")
    elif not isinstance(source, (str, bytes)):
        yield source


def name_of(source: Any) -> str:
    """Return the name of a dataset: its folder, or its file without suffixes."""
    if not isinstance(source, (str, Path)):
        return type(source).__name__
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.name.partition(".")[0] or path.name


def _open_path(path: Path, builder: DatasetBuilder, choice: ColumnChoice) -> Iterator[Any]:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: the path cannot be read ({error}); check it.") from error
    if not exists:
        raise DatasetError(f"{path}: there is no such file; check the path.")
    suffix = _suffix(path)
    if is_folder:
        yield path
    elif suffix == ".parquet":
        yield Table(arrow_tables.iterate_parquet(path), str(path))
    elif suffix in (".csv", ".tsv"):
        usual = "," if suffix == ".csv" else "\t"
        rows = delimited.iterate_delimited(path, usual, builder, lambda header: _is_table(header, choice))
        yield Table(rows, str(path))
    elif suffix == ".jsonl":
        table = Table(iterate_json_lines(path, builder.leave_out), str(path), is_json_lines=True)
        if not table.has_rows:
            raise builder.first_error or empty_file(path)
        yield table
    else:
        yield from _open_document(JsonDocument.read(path), builder, choice)


def _open_document(document: JsonDocument, builder: DatasetBuilder, choice: ColumnChoice) -> Iterator[Any]:
    rows = document.value if isinstance(document.value, list) else []
    first = rows[0] if rows else None
    if isinstance(first, dict) and (choice.names or pairs.has_pairs(first)):
        yield Table(_json_rows(document, builder), str(document.path))
    yield document
    if isinstance(document.value, list):
        yield Table(_json_rows(document, builder), str(document.path))


def _json_rows(document: JsonDocument, builder: DatasetBuilder) -> Iterator[Row]:
    """Yield the objects of a JSON list; other values are left out and counted."""
    for index, value in enumerate(document.value):
        location = builder.location(document.root.at(index))
        if isinstance(value, dict):
            yield location, value
        else:
            builder.leave_out(
                DatasetError(f"{location}: the row is {json_type(value)}; it must be an object."), location
            )


def _is_table(header: Sequence[str], choice: ColumnChoice) -> bool:
    known = {squash(name) for name in choice.names}
    named = known & {squash(column) for column in header}
    return bool(named) or pairs.has_pairs(header) or memories.is_memory(dict.fromkeys(header))


def _suffix(path: Path) -> str:
    """Return the suffix that names the format, in lower case, without that of gzip."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    known = {".ndjson": ".jsonl", ".pq": ".parquet", ".tab": ".tsv"}
    return known.get(suffix, suffix)
