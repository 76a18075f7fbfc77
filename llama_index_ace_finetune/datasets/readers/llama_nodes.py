"""LlamaIndex nodes: the text that LlamaIndex embeds, with the id of the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.source_location import AnyLocation, SourceLocation
from llama_index_ace_finetune.datasets.types import NO_METADATA
from llama_index_ace_finetune.errors import DatasetError

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode


def _can_read(source: Sequence[Any], options: ReadOptions) -> bool:
    """Return whether the source is a sequence of LlamaIndex nodes (or of nodes with scores)."""
    return bool(source) and callable(getattr(_node(source[0]), "get_content", None))


def read(nodes: Sequence[Any], builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add nodes with text `MetadataMode.EMBED`, id `node_id`, and their metadata with `ref_doc_id`.

    Raises DatasetError for an element that is not a node.
    """
    from llama_index.core.schema import BaseNode

    for index, element in enumerate(nodes):
        location = SourceLocation("nodes", 0, f"[{index}]")
        node = _node(element)
        if not isinstance(node, BaseNode):
            raise DatasetError(f"{location}: expected a LlamaIndex node, found {type(node).__name__}; give nodes only.")
        add_node(node, builder, location)


def add_node(
    node: BaseNode, builder: DatasetBuilder, location: AnyLocation, metadata: Mapping[str, Any] = NO_METADATA
) -> None:
    """Add a node with its metadata, `ref_doc_id`, and further metadata; raises DatasetError as `add_memory` does."""
    from llama_index.core.schema import MetadataMode

    document = {} if node.ref_doc_id is None else {"ref_doc_id": node.ref_doc_id}
    text = node.get_content(metadata_mode=MetadataMode.EMBED)
    identifier = builder.add_memory(node.node_id, text, location, {**metadata, **document, **node.metadata})
    builder.node_contents[identifier] = node.get_content(metadata_mode=MetadataMode.NONE)


def _node(element: Any) -> Any:
    return getattr(element, "node", element)


READER = Reader(
    name="llama_nodes",
    signature="a list of LlamaIndex nodes",
    sources=(Sequence,),
    can_read=_can_read,
    read=read,
)
