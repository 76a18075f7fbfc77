"""Payload indexes: a server filters faster with them, and in strict mode only with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.filters import payload_path
from llama_index_ace_finetune.stores.qdrant.write_log import is_embedded

PayloadIndexes = Sequence[str] | Mapping[str, str]
# The three names under which LlamaIndex writes a node's source document.
_ALWAYS: Final = ("ref_doc_id", "doc_id", "document_id")


def create_payload_indexes(
    client: QdrantClient, collection: str, location: str, indexes: PayloadIndexes | None = None
) -> None:
    """Create payload indexes on a server, for the source document's id and the given keys, unless they exist.

    Args:
        client: client of the collection; an embedded collection needs no payload indexes.
        collection: its name.
        location: of the collection, as errors name it.
        indexes: metadata keys to filter on, indexed as "keyword", or keys with Qdrant's index types: "keyword",
            "integer", "float", "bool", "datetime", "uuid" or "text".

    Raises:
        StoreError: for an index type that Qdrant does not have, or if the server rejects it.
    """
    named = payload_index_types(indexes)
    if is_embedded(client):
        return
    existing = call_qdrant(location, client.get_collection, collection).payload_schema
    for key, kind in (dict.fromkeys(_ALWAYS, "keyword") | named).items():
        path = payload_path(key)
        if path not in existing:
            call_qdrant(location, client.create_payload_index, collection, path, models.PayloadSchemaType(kind))


def payload_index_types(indexes: PayloadIndexes | None) -> dict[str, str]:
    """Return the keys with their index types.

    Raises:
        StoreError: for an index type that Qdrant does not have.
    """
    if isinstance(indexes, str):
        raise StoreError(f"The payload indexes are one string, {indexes!r:.80}; give a list of keys.")
    named = dict(indexes) if isinstance(indexes, Mapping) else dict.fromkeys(indexes or (), "keyword")
    kinds = {kind.value for kind in models.PayloadSchemaType}
    for key, kind in named.items():
        if kind not in kinds:
            raise StoreError(f"Qdrant has no payload index {kind!r:.80} (for {key!r:.80}); use one of {sorted(kinds)}.")
    return named


def read_payload_indexes(client: QdrantClient, collection: str, location: str) -> dict[str, str]:
    """Return the indexed keys of a collection, with their index types."""
    schema = call_qdrant(location, client.get_collection, collection).payload_schema
    return {key: info.data_type.value for key, info in schema.items()}
