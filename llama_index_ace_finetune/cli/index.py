"""`index`: embed memories for serving."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import (
    SERVER_PANEL,
    ApiKeyEnv,
    AsJson,
    Columns,
    Data,
    Device,
    Memories,
    Precision,
    PreferGrpc,
    ServerCollection,
    ServerUrl,
    Shards,
)
from llama_index_ace_finetune.cli.server_options import read_api_key, require_url
from llama_index_ace_finetune.cli.verb import Verb
from llama_index_ace_finetune.errors import AceFinetuneError

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.index_on_server import ServerIndexResult


def index(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder of the tuned model.")],
    memories: Memories = None,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the index; by default beside the model.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an index that is there.")] = False,
    device: Device = None,
    precision: Precision = None,
    shards: Shards = None,
    url: ServerUrl = None,
    collection: ServerCollection = None,
    api_key_env: ApiKeyEnv = None,
    grpc: PreferGrpc = False,
    shard_number: Annotated[
        int | None, typer.Option(help="Parts of the collection (default: one per node).", rich_help_panel=SERVER_PANEL)
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(help="Copies of each shard.", rich_help_panel=SERVER_PANEL)
    ] = None,
    quantization: Annotated[
        Literal["scalar", "binary"] | None,
        typer.Option(help="Search by quantised vectors.", rich_help_panel=SERVER_PANEL),
    ] = None,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Vectors and texts on disk, not in memory.", rich_help_panel=SERVER_PANEL)
    ] = False,
    payload_index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<key or key=type>",
            help="Metadata key to filter on, as keyword or another of Qdrant's index types; repeatable.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed memories with the tuned model and its base, for serving from a folder or a Qdrant server."""
    shared: dict[str, Any] = {
        "memories": memories, "columns": columns, "replace": replace, "device": device,
        "precision": precision or "auto", "shards": shards or (),
    }  # fmt: skip

    def to_folder() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.index import index as build

        only_server = {
            "--collection": collection, "--api-key-env": api_key_env, "--grpc": grpc, "--shard-number": shard_number,
            "--replication-factor": replication_factor, "--quantization": quantization, "--on-disk": on_disk,
            "--payload-index": payload_index,
        }  # fmt: skip
        require_url(only_server)
        result = build(data, model, out, events=ConsoleEvents(), **shared)
        emit(
            {"memories": result.memories, "index": str(result.path)},
            lambda screen: screen.print(f"{result.memories} memories in {result.path}", markup=False),
        )

    def to_server(address: str) -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.pipeline.index_on_server import index_on_server
        from llama_index_ace_finetune.stores.memory_store import DEFAULT_COLLECTION
        from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings
        from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings

        if out is not None:
            raise AceFinetuneError("An index is written to a folder or to a server; give --out or --url, not both.")
        result = index_on_server(
            data,
            model,
            address,
            collection or DEFAULT_COLLECTION,
            api_key=read_api_key(api_key_env),
            client_options=ServerSettings(prefer_grpc=grpc),
            collection_options=CollectionSettings(
                shard_number=shard_number,
                replication_factor=replication_factor,
                vectors_on_disk=on_disk,
                payload_on_disk=on_disk or None,
                quantization=quantization,
            ),
            payload_indexes={key: kind or "keyword" for key, _, kind in (one.partition("=") for one in payload_index)}
            if payload_index
            else None,
            events=ConsoleEvents(),
            **shared,
        )
        plain = {name: getattr(result, name) for name in ("memories", "url", "alias", "collection", "replaced")}
        emit(plain, lambda screen: _print(result, screen))

    execute(to_folder if url is None else partial(to_server, url), as_json=as_json)


def _print(result: ServerIndexResult, screen: Console) -> None:
    screen.print(f"{result.memories} memories in {result.collection} on {result.url}", markup=False)
    screen.print(f"{result.alias} is an alias of it", markup=False)
    if result.replaced is not None:
        screen.print(f"{result.replaced} is kept for a rollback", markup=False)


VERB = Verb(
    index,
    (
        "ace-finetune index --data my_suite.json --model my-model --out my-index",
        "ace-finetune index --data my_suite.json --model my-model --shards vectors --out my-index",
        "ace-finetune index --data my_suite.json --model my-run/model --url http://localhost:6333 --collection notes",
    ),
)
