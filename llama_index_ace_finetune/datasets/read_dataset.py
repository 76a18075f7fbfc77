"""One door for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.place import Place
from llama_index_ace_finetune.datasets.readers import (
    ace_inventory,
    ace_playbook,
    ace_suite,
    beir,
    llama_nodes,
    pairs,
    qa_dataset,
    tables,
)
from llama_index_ace_finetune.datasets.readers.ace_folder import find_ace_files
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.datasets.readers.query_mapping import RightAnswers, read_query_mapping
from llama_index_ace_finetune.datasets.text_files import iterate_json_lines
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError

FORMATS = ("ace_suite", "ace_inventory", "ace_playbook", "beir", "qa_dataset", "pairs", "llama_nodes")

Source: TypeAlias = Any
"""A path, a sequence of LlamaIndex nodes, or a `datasets.Dataset`."""

_JSON_READERS: dict[str, tuple[Callable[[JsonDocument], bool], Callable[[JsonDocument, DatasetBuilder], None]]] = {
    ace_suite.FORMAT: (ace_suite.recognises, ace_suite.read_ace_suite),
    qa_dataset.FORMAT: (qa_dataset.recognises, qa_dataset.read_qa_dataset),
    ace_playbook.FORMAT: (ace_playbook.recognises, ace_playbook.read_ace_playbook),
    ace_inventory.FORMAT: (ace_inventory.recognises, ace_inventory.read_ace_inventory),
}


def read_dataset(
    source: Source,
    memories: Source | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the field's own name
    queries: Mapping[str, RightAnswers] | None = None,
) -> RetrievalDataset:
    """Read a dataset of any known format; `dataset.ledger.format` says which it took.

    `source` is a path (an ACE suite, inventory, playbook or skillbook, a folder of them, a BEIR folder, an
    EmbeddingQAFinetuneDataset, or pairs as CSV, TSV, JSON Lines, JSON or Parquet; text files may be gzipped), a
    sequence of LlamaIndex nodes, or a `datasets.Dataset`. `memories` is a second source whose memories join the
    corpus (an inventory, a playbook, a BEIR corpus.jsonl, nodes); an id that both hold keeps the text of `source`.
    `format` is one of `FORMATS` and skips the recognition. `queries` maps query texts to the ids of their right
    answers, for sources that hold memories alone.

    Raises DatasetError: one sentence with the file and, where there is one, the line.
    """
    if format is not None and format not in FORMATS:
        raise DatasetError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    name = _name(source)
    if isinstance(source, (str, Path)) and format in (None, ace_suite.FORMAT):
        source, inventory = find_ace_files(Path(source))
        memories = inventory if memories is None else memories
    builder = _read(source, format)
    builder.name = name
    if memories is not None:
        builder.add_memories_of(_read(memories, None), Place(_name(memories)))
    if queries is not None:
        read_query_mapping(queries, builder)
    return builder.build(source if isinstance(source, (str, Path)) else name)


def _read(source: Source, wanted: str | None) -> DatasetBuilder:
    if isinstance(source, (str, Path)):
        return _read_path(Path(source), wanted)
    if tables.is_arrow_dataset(source) and wanted in (None, pairs.FORMAT):
        return _read_rows(tables.iterate_arrow_dataset(source), "datasets.Dataset")
    if llama_nodes.recognises(source) and wanted in (None, llama_nodes.FORMAT):
        builder = DatasetBuilder("nodes", llama_nodes.FORMAT)
        llama_nodes.read_llama_nodes(source, builder)
        return builder
    raise DatasetError(
        f"Data of type {type(source).__name__} is not understood"
        f"{f' as {wanted}' if wanted else ''}; give a path, LlamaIndex nodes or a datasets.Dataset."
    )


def _read_path(path: Path, wanted: str | None) -> DatasetBuilder:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: the path cannot be read ({error}); check it.") from error
    if not exists:
        raise DatasetError(f"{path}: there is no such file; check the path.")
    if is_folder:
        if wanted not in (None, beir.FORMAT) or not (wanted or beir.recognises(path)):
            raise DatasetError(
                f"{path}: this folder is neither a BEIR folder (corpus.jsonl, queries.jsonl, qrels.tsv) nor one with "
                "an ACE test suite; give the file itself."
            )
        builder = DatasetBuilder(_name(path), beir.FORMAT)
        beir.read_beir(path, builder)
        return builder
    kind = _suffix(path)
    if kind == ".parquet":
        _check_wanted(wanted, pairs.FORMAT, path)
        return _read_rows(tables.iterate_parquet(path), _name(path))
    if kind in (".csv", ".tsv"):
        _check_wanted(wanted, pairs.FORMAT, path)
        return _read_rows(tables.iterate_delimited(path, "," if kind == ".csv" else "\t"), _name(path))
    if kind == ".jsonl":
        return _read_json_lines(path, wanted)
    return _read_document(JsonDocument.read(path), wanted)


def _read_document(document: JsonDocument, wanted: str | None) -> DatasetBuilder:
    path = document.path
    for name, (recognises, read) in _JSON_READERS.items():
        if wanted == name or (wanted is None and recognises(document)):
            if not recognises(document):
                raise DatasetError(f"{path}: this is no {name} file; leave the format out, or name the right one.")
            builder = DatasetBuilder(_name(path), name)
            read(document, builder)
            return builder
    if isinstance(document.value, list) and wanted in (None, pairs.FORMAT):
        return _read_rows(tables.iterate_json_list(document), _name(path))
    raise DatasetError(
        f"{path}, line 1: the JSON is not of a known format; an ACE suite has 'test_cases', a playbook 'bullets', a "
        "skillbook 'skills', a LlamaIndex QA dataset 'corpus' and 'relevant_docs'."
    )


def _read_json_lines(path: Path, wanted: str | None) -> DatasetBuilder:
    _, first = next(iterate_json_lines(path), (None, None))
    if first is None:
        raise DatasetError(f"{path}: the file is empty; give a file with data in it.")
    if wanted == beir.FORMAT or (wanted is None and "_id" in first and not pairs.recognises(first)):
        builder = DatasetBuilder(_name(path), beir.FORMAT)
        beir.read_beir_corpus(path, builder)
        return builder
    _check_wanted(wanted, pairs.FORMAT, path)
    return _read_rows(iterate_json_lines(path), _name(path))


def _read_rows(rows: Any, name: str) -> DatasetBuilder:
    builder = DatasetBuilder(name, pairs.FORMAT)
    pairs.read_pairs(rows, builder)
    return builder


def _check_wanted(wanted: str | None, format: str, path: Path) -> None:  # noqa: A002 - the field's own name
    if wanted not in (None, format):
        raise DatasetError(f"{path}: a {_suffix(path)} file is read as {format}, not {wanted}; leave the format out.")


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
