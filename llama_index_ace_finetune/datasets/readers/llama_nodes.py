"""LlamaIndex nodes: the text that LlamaIndex embeds, with the id of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.errors import DatasetError


def _can_read(source: Sequence[Any], options: ReadOptions) -> bool:
    """Return whether the source is a sequence of LlamaIndex nodes (or of nodes with scores)."""
    return bool(source) and callable(getattr(_node(source[0]), "get_content", None))


def read(nodes: Sequence[Any], builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add nodes with text `MetadataMode.EMBED`, id `node_id`, and their metadata with `ref_doc_id`.

    Raises DatasetError for an element that is not a node.
    """
    from llama_index.core.schema import BaseNode, MetadataMode

    for index, element in enumerate(nodes):
        location = SourceLocation("nodes", 0, f"[{index}]")
        node = _node(element)
        if not isinstance(node, BaseNode):
            raise DatasetError(f"{location}: expected a LlamaIndex node, found {type(node).__name__}; give nodes only.")
        metadata = dict(node.metadata)
        if node.ref_doc_id is not None:
            metadata.setdefault("ref_doc_id", node.ref_doc_id)
        builder.add_memory(node.node_id, node.get_content(metadata_mode=MetadataMode.EMBED), location, metadata)


def _node(element: Any) -> Any:
    return getattr(element, "node", element)


READER = Reader(
    name="llama_nodes",
    signature="a list of LlamaIndex nodes",
    sources=(Sequence,),
    can_read=_can_read,
    read=read,
)
