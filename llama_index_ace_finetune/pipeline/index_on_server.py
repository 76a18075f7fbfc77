"""Build the collection of a Qdrant server that serves a model's memories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qdrant_client import QdrantClient

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.index import load_both_models
from llama_index_ace_finetune.retrievers.open_tokens import token_encoders
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.use_shards import shard_memories, with_shards
from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes
from llama_index_ace_finetune.stores.memory_store import DEFAULT_COLLECTION
from llama_index_ace_finetune.stores.qdrant.collection_settings import (
    CollectionOptions,
    CollectionSettings,
    require_replicas,
)
from llama_index_ace_finetune.stores.qdrant.collections import is_unfinished, require_supported_server, resolve_alias
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant, connect
from llama_index_ace_finetune.stores.qdrant.payload_indexes import PayloadIndexes
from llama_index_ace_finetune.stores.qdrant.server_settings import ClientOptions
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.stores.versions import publish
from llama_index_ace_finetune.utils.redact import without_passwords


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerIndexResult:
    """What `index_on_server` built.

    Attributes:
        url: of the server, without passwords.
        alias: the name to search.
        collection: the collection that it stands for.
        replaced: the collection that it stood for before, which is kept for a rollback; None if there was none.
        memories: number of memories.
    """

    url: str
    alias: str
    collection: str
    replaced: str | None
    memories: int


def index_on_server(
    data: Data,
    model: str | Path,
    url: str,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    memories: Memories | None = None,
    columns: str | None = None,
    replace: bool = False,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    client_options: ClientOptions | None = None,
    collection_options: CollectionOptions | None = None,
    payload_indexes: PayloadIndexes | None = None,
    shards: Sequence[str | Path] = (),
    events: PipelineEvents | None = None,
) -> ServerIndexResult:
    """Embed memories with a tuned model and its base model into a collection on a server.

    The collection `NAME.v1` is built, then `NAME` becomes an alias of it. With `replace`, the next version is built
    beside the one that serves, and the alias switches in one step at the end; `rollback` switches back. BM25 vectors
    are stored too, and token vectors if the model's run serves late interaction. A call that was interrupted is
    completed by repeating it.

    Args:
        data: a dataset, or a file or folder in any format that `read_dataset` takes.
        model: folder of the tuned model.
        url: address of the server.
        collection: name to search, an alias.
        api_key: of the server; the environment variable QDRANT_API_KEY by default.
        memories: further memories, as for `index`.
        columns: names of the columns of a table, as `read_dataset` takes them.
        replace: build another version if there is one.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`.
        client_options: `ServerSettings`, or arguments of `QdrantClient`.
        collection_options: `CollectionSettings`, or arguments of `create_collection`.
        payload_indexes: metadata keys that the server indexes, as for `build_index`.
        shards: folders that `encode` wrote, as for `index`.
        events: receives progress.

    Raises:
        OutputExistsError: if there is a version and `replace` is off, or a collection has the name of the alias.
        StoreError: if the server cannot be reached, is too old, or has too few nodes for the replicas.
        DatasetError: for data that cannot be read, or without memories.
        ModelError: if a model cannot be loaded.
    """
    client, location = connect(url=url, api_key=api_key, client_options=client_options)
    try:
        require_supported_server(client, location)
        version, replaced = _next_version(client, collection, location, replace=replace)
        require_replicas(client, CollectionSettings.of(collection_options), version, location)
    finally:
        client.close()
    folders = [ShardFolder.open(folder) for folder in shards]
    dataset = read_dataset(data, shard_memories(folders) if folders and memories is None else memories, columns=columns)
    nodes = memory_nodes(dataset.memories.values())
    if not nodes:
        raise DatasetError("There are no memories to index; give data that holds some.")
    models = load_both_models(Path(model), EncoderSettings(device=device, precision=precision))
    tuned, base = with_shards(models, folders)
    run = RunFolder.of_model(Path(model))
    serving = run.serving() if run else None
    tokens = None
    if run is not None and serving is not None and serving.has_late_interaction:
        served = FineTunedEmbedding.from_encoder(models[1] if serving.vectors == "base" else models[0])
        tokens = token_encoders(served, run.index)[0]
    with (events or PipelineEvents()).texts_progress("indexing", 2 * len(nodes)) as progress:
        store = build_index(
            nodes,
            finetuned=tuned,
            baseline=base,
            url=url,
            api_key=api_key,
            collection=version,
            server_bm25=True,
            progress=progress,
            client_options=client_options,
            collection_options=collection_options,
            payload_indexes=payload_indexes,
            tokens=tokens,
        )
    with store:
        call_qdrant(location, publish, store.client, collection, version)
    return ServerIndexResult(
        url=without_passwords(url), alias=collection, collection=version, replaced=replaced, memories=len(nodes)
    )


def _next_version(client: QdrantClient, alias: str, location: str, *, replace: bool) -> tuple[str, str | None]:
    """Return the collection to build, which may exist if it is unfinished, and the one that the alias stands for."""
    names = {found.name for found in call_qdrant(location, client.get_collections).collections}
    if alias in names:
        raise OutputExistsError(
            f"There is a collection {alias!r} in {location}, so the name cannot be an alias; give another --collection."
        )
    before = call_qdrant(location, resolve_alias, client, alias)
    if before != alias and not replace:
        raise OutputExistsError(
            f"The name {alias!r} in {location} already stands for the collection {before!r}; give another "
            "--collection, or build a new version with --replace."
        )
    versions = (f"{alias}.v{number}" for number in itertools.count(1))
    free = next(name for name in versions if name not in names or is_unfinished(client, name, location))
    return free, None if before == alias else before
