"""One door for every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.piped import piped
from llama_index_ace_finetune.datasets.readers import (
    ace_inventory,
    ace_playbook,
    ace_suite,
    beir,
    delimited,
    llama_nodes,
    memory_list,
    pairs,
    qa_dataset,
    tables,
)
from llama_index_ace_finetune.datasets.readers.ace_folder import find_ace_files
from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.readers.column_names import squash
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.pairs import Row
from llama_index_ace_finetune.datasets.readers.query_mapping import RightAnswers, read_query_mapping
from llama_index_ace_finetune.datasets.source_location import Place
from llama_index_ace_finetune.datasets.text_files import iterate_json_lines, json_type
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError

FORMATS = ("ace_suite", "ace_inventory", "ace_playbook", "beir", "qa_dataset", "pairs", "memories", "llama_nodes")

Source: TypeAlias = Any
"""A path, a sequence of LlamaIndex nodes, or a `datasets.Dataset`."""

_JSON_READERS: dict[str, tuple[Callable[[JsonDocument], bool], Callable[[JsonDocument, DatasetBuilder], None]]] = {
    ace_suite.FORMAT: (ace_suite.recognises, ace_suite.read_ace_suite),
    qa_dataset.FORMAT: (qa_dataset.recognises, qa_dataset.read_qa_dataset),
    ace_playbook.FORMAT: (ace_playbook.recognises, ace_playbook.read_ace_playbook),
    ace_inventory.FORMAT: (ace_inventory.recognises, memory_list.read_memory_list),
    memory_list.FORMAT: (memory_list.recognises, memory_list.read_memory_list),
}
_TABLES = (pairs.FORMAT, memory_list.FORMAT)


def read_dataset(
    source: Source,
    memories: Source | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the field's own name
    queries: Mapping[str, RightAnswers] | None = None,
    columns: str | Mapping[str, str] | None = None,
) -> RetrievalDataset:
    """Read a dataset of any known format; `dataset.ledger.format` says which it took.

    `source` is a path (an ACE suite, inventory, playbook or skillbook, a folder of them, a BEIR folder, an
    EmbeddingQAFinetuneDataset, pairs or a list of memories as CSV, TSV, JSON Lines, JSON or Parquet; text files may be
    gzipped), a sequence of LlamaIndex nodes, or a `datasets.Dataset`. `memories` is a second source whose memories join
    the corpus (an inventory, a playbook, a BEIR corpus.jsonl, a table with ids and texts, nodes); an id that both hold
    keeps the text of `source`. `format` is one of `FORMATS` and skips the recognition. `queries` maps query texts to
    the ids of their right answers, for sources that hold memories only. `columns` names the columns of a table, as
    `"query=question,text=context"` or a mapping of the same (see `ColumnChoice`).

    Rows that cannot be used are counted in the ledger and left out.

    Raises DatasetError: one sentence with the file and, where there is one, the line.
    """
    if format is not None and format not in FORMATS:
        raise DatasetError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    choice = ColumnChoice.of(columns)
    name = _name(source)
    if isinstance(source, (str, Path)) and format in (None, ace_suite.FORMAT) and not choice.names:
        source, inventory = find_ace_files(Path(source))
        memories = inventory if memories is None else memories
    builder = _read(source, format, choice)
    builder.name = name
    if memories is not None:
        builder.add_memories_of(_read(memories, None, choice, memories=True), Place(_name(memories)))
    if queries is not None:
        read_query_mapping(queries, builder)
    return builder.build(source if isinstance(source, (str, Path)) else name)


def _read(source: Source, wanted: str | None, choice: ColumnChoice, *, memories: bool = False) -> DatasetBuilder:
    if isinstance(source, (str, Path)):
        with piped(Path(source)) as path:
            return _read_path(path, wanted, choice, memories)
    if tables.is_arrow_dataset(source) and wanted in (None, *_TABLES):
        return _read_rows(
            tables.iterate_arrow_dataset(source), DatasetBuilder("datasets.Dataset", ""), wanted, choice, memories
        )
    if llama_nodes.recognises(source) and wanted in (None, llama_nodes.FORMAT):
        builder = DatasetBuilder("nodes", llama_nodes.FORMAT)
        llama_nodes.read_llama_nodes(source, builder)
        return builder
    raise DatasetError(
        f"Data of type {type(source).__name__} is not understood"
        f"{f' as {wanted}' if wanted else ''}; give a path, LlamaIndex nodes or a datasets.Dataset."
    )


def _read_path(path: Path, wanted: str | None, choice: ColumnChoice, memories: bool) -> DatasetBuilder:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: the path cannot be read ({error}); check it.") from error
    if not exists:
        raise DatasetError(f"{path}: there is no such file; check the path.")
    if is_folder:
        return _read_folder(path, wanted, choice)
    kind = _suffix(path)
    builder = DatasetBuilder(_name(path), "")
    if kind == ".parquet":
        return _read_rows(tables.iterate_parquet(path), builder, wanted, choice, memories)
    if kind in (".csv", ".tsv"):
        usual = "," if kind == ".csv" else "\t"
        rows = delimited.iterate_delimited(path, usual, builder, lambda header: _is_table(header, choice))
        return _read_rows(rows, builder, wanted, choice, memories)
    if kind == ".jsonl":
        return _read_json_lines(path, wanted, choice, memories)
    return _read_document(JsonDocument.read(path), wanted, choice, memories)


def _read_folder(path: Path, wanted: str | None, choice: ColumnChoice) -> DatasetBuilder:
    if wanted not in (None, beir.FORMAT) or not (wanted or beir.recognises(path)):
        raise DatasetError(
            f"{path}: this folder is neither a BEIR folder (corpus.jsonl, queries.jsonl, qrels.tsv) nor one with "
            "an ACE test suite; give the file itself."
        )
    _refuse_columns(choice, path, beir.FORMAT)
    builder = DatasetBuilder(_name(path), beir.FORMAT)
    beir.read_beir(path, builder)
    return builder


def _read_document(document: JsonDocument, wanted: str | None, choice: ColumnChoice, memories: bool) -> DatasetBuilder:
    path = document.path
    rows = document.value if isinstance(document.value, list) else []
    if wanted in (None, *_TABLES) and _is_rows_of_pairs(rows, choice):
        builder = DatasetBuilder(_name(path), "")
        return _read_rows(_json_rows(document, builder), builder, wanted, choice, memories)
    for name, (recognises, read) in _JSON_READERS.items():
        if wanted == name or (wanted is None and recognises(document)):
            if not recognises(document):
                raise DatasetError(f"{path}: this is no {name} file; leave the format out, or name the right one.")
            if not memories:
                _refuse_columns(choice, path, name)
            builder = DatasetBuilder(_name(path), name)
            read(document, builder)
            return builder
    if isinstance(document.value, list) and wanted in (None, *_TABLES):
        builder = DatasetBuilder(_name(path), "")
        return _read_rows(_json_rows(document, builder), builder, wanted, choice, memories)
    raise DatasetError(
        f"{path}, line 1: the JSON is not of a known format; an ACE suite has 'test_cases', a playbook 'bullets', a "
        "skillbook 'skills', a LlamaIndex QA dataset 'corpus' and 'relevant_docs'."
    )


def _is_rows_of_pairs(rows: Sequence[Any], choice: ColumnChoice) -> bool:
    first = rows[0] if rows else None
    return isinstance(first, dict) and (bool(choice.names) or pairs.recognises(first))


def _json_rows(document: JsonDocument, builder: DatasetBuilder) -> Iterator[Row]:
    """Yield the objects of a JSON list; whatever else stands in it is left out and counted."""
    for index, value in enumerate(document.value):
        place = builder.place(document.root.at(index))
        if isinstance(value, dict):
            yield place, value
        else:
            builder.leave_out(DatasetError(f"{place}: the row is {json_type(value)}; it must be an object."), place)


def _read_json_lines(path: Path, wanted: str | None, choice: ColumnChoice, memories: bool) -> DatasetBuilder:
    builder = DatasetBuilder(_name(path), "")
    rows = iterate_json_lines(path, builder.leave_out)
    head = next(rows, None)
    if head is None:
        raise builder.first_fault or DatasetError(f"{path}: the file is empty; give a file with data in it.")
    first = head[1]
    if wanted == beir.FORMAT or (wanted is None and "_id" in first and not _is_rows_of_pairs([first], choice)):
        builder = DatasetBuilder(_name(path), beir.FORMAT)
        beir.read_beir_corpus(path, builder)
        return builder
    return _read_rows(chain([head], rows), builder, wanted, choice, memories)


def _read_rows(
    rows: Iterable[Row],
    builder: DatasetBuilder,
    wanted: str | None,
    choice: ColumnChoice,
    memories: bool,
) -> DatasetBuilder:
    """Read a table of pairs, or one of memories: where it has no query, or is given as memories."""
    if wanted not in (None, *_TABLES):
        raise DatasetError(
            f"{builder.name}: a table is read as pairs or memories, not as {wanted}; leave the format out."
        )
    held = list(rows)
    present = list(dict.fromkeys(column for _, row in held for column in row))
    where = Place(held[0][0].file if held else builder.name)
    is_list = wanted == memory_list.FORMAT or (
        wanted is None
        and not pairs.recognises(present, None if memories else choice)
        and (memories or _is_memory_table(present))
    )
    builder.ledger.format = memory_list.FORMAT if is_list else pairs.FORMAT
    if is_list:
        memory_list.check_columns(present, where, choice)
        memory_list.read_memories(held, builder, choice)
    else:
        pairs.read_pairs(held, builder, choice)
    return builder


def _is_memory_table(columns: Sequence[str]) -> bool:
    return memory_list.recognises_row(dict.fromkeys(columns))


def _is_table(header: Sequence[str], choice: ColumnChoice) -> bool:
    known = {squash(name) for name in choice.names}
    named = known & {squash(column) for column in header}
    return bool(named) or pairs.recognises(header) or _is_memory_table(header)


def _refuse_columns(choice: ColumnChoice, path: Path, found: str) -> None:
    if choice.names:
        raise DatasetError(f"{path}: --columns names columns of a table, and this was read as {found}; leave it out.")


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format; a file without a known one is looked into."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    known = {".ndjson": ".jsonl", ".pq": ".parquet", ".tab": ".tsv"}
    return known.get(suffix, suffix)


def _name(source: Source) -> str:
    """Return what a dataset is called: its folder, or its file without suffixes."""
    if not isinstance(source, (str, Path)):
        return type(source).__name__
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.name.partition(".")[0] or path.name
