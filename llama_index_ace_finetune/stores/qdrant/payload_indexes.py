"""Payload indexes, without which a server in strict mode refuses filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.filters import payload_path
from llama_index_ace_finetune.stores.qdrant.write_log import is_embedded

PayloadIndexes = Sequence[str] | Mapping[str, str]
# The three names under which LlamaIndex writes a node's source document.
_ALWAYS: Final = ("ref_doc_id", "doc_id", "document_id")


def create_payload_indexes(
    client: QdrantClient, collection: str, where: str, indexes: PayloadIndexes | None = None
) -> None:
    """Index the id of the source document and the keys named, where a server does not do so already.

    Args:
        client: holds the collection; an embedded one has no payload indexes and needs none.
        collection: its name.
        where: what errors call the place.
        indexes: keys of the metadata that filters name, for text that is matched whole, or keys with Qdrant's types
            of index: "keyword", "integer", "float", "bool", "datetime", "uuid" or "text".

    Raises:
        StoreError: for a type that Qdrant does not have, or if the server refuses.
    """
    named = payload_index_types(indexes)
    if is_embedded(client):
        return
    held = told(where, client.get_collection, collection).payload_schema
    for key, kind in (dict.fromkeys(_ALWAYS, "keyword") | named).items():
        path = payload_path(key)
        if path not in held:
            told(where, client.create_payload_index, collection, path, models.PayloadSchemaType(kind))


def payload_index_types(indexes: PayloadIndexes | None) -> dict[str, str]:
    """Return keys with types of index.

    Raises:
        StoreError: for a type that Qdrant does not have.
    """
    if isinstance(indexes, str):
        raise StoreError(f"The payload indexes are one string, {indexes!r:.80}; give a list of keys.")
    named = dict(indexes) if isinstance(indexes, Mapping) else dict.fromkeys(indexes or (), "keyword")
    kinds = {kind.value for kind in models.PayloadSchemaType}
    for key, kind in named.items():
        if kind not in kinds:
            raise StoreError(f"Qdrant has no payload index {kind!r:.80} (for {key!r:.80}); use one of {sorted(kinds)}.")
    return named


def held_payload_indexes(client: QdrantClient, collection: str, where: str) -> dict[str, str]:
    """Return the keys that a collection has indexes of, with their types."""
    schema = told(where, client.get_collection, collection).payload_schema
    return {key: info.data_type.value for key, info in schema.items()}
