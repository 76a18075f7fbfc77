"""The docstore of a persisted LlamaIndex `StorageContext`: its nodes, as LlamaIndex embeds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument, expect_object
from llama_index_ace_finetune.datasets.readers.llama_nodes import add_node
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.node_payload import node_of_record

_NODES = "docstore/data"
_FILE = "docstore.json"


def _can_read(source: JsonDocument | Path, options: ReadOptions) -> bool:
    if isinstance(source, Path):
        return (source / _FILE).is_file()
    return isinstance(source.value, dict) and _NODES in source.value


def read(source: JsonDocument | Path, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add the nodes of `docstore.json`; whole documents count only if there are no nodes that were cut from them.

    Raises DatasetError, also for a docstore without nodes.
    """
    document = JsonDocument.read(source / _FILE) if isinstance(source, Path) else source
    root = document.root.at(_NODES)
    records = expect_object(expect_object(document.value, document.root, "the docstore").get(_NODES), root, _NODES)
    if not records:
        raise DatasetError(
            f"{document.path}: the docstore holds no nodes, since LlamaIndex keeps those of an external vector store "
            "only there; give the vector store, such as the folder or address of its Qdrant collection."
        )
    are_documents = {key: _class_name(record) == "Document" for key, record in records.items()}
    has_nodes = not all(are_documents.values())
    for key, record in records.items():
        location = builder.location(root.at(key))
        if has_nodes and are_documents[key]:
            builder.ledger.note("source_document_left_out", location, key)
            continue
        with builder.row(location):
            fields = record.get("__data__") if isinstance(record, dict) else None
            node = node_of_record(fields, _class_name(record), default_id=key) if isinstance(fields, dict) else None
            if node is None:
                raise DatasetError(f"{location}: this is no LlamaIndex node; persist the index again.")
            add_node(node, builder, location)


def _class_name(record: Any) -> str:
    fields = record.get("__data__") if isinstance(record, dict) else None
    return str(fields.get("class_name")) if isinstance(fields, dict) else ""


READER = Reader(
    name="llama_docstore",
    signature="a persisted LlamaIndex index has docstore.json",
    sources=(JsonDocument, Path),
    can_read=_can_read,
    read=read,
)
