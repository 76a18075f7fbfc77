"""`search`: search the memories of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import ApiKeyEnv, AsJson, PreferGrpc, ServerCollection, ServerUrl
from llama_index_ace_finetune.cli.server_options import read_api_key, require_url
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

_LEGS = {
    "bm25": "BM25",
    "bm25_unstemmed": "BM25 unstemmed",
    "char_ngrams": "character n-grams",
    "late": "late interaction",
}


def search(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    query: Annotated[str, typer.Argument(help="Text to search for.")],
    limit: Annotated[int, typer.Option(help="Maximum number of results.")] = 5,
    mode: Annotated[Literal["hybrid", "dense", "sparse"], typer.Option(help="How to search.")] = "hybrid",
    threshold: Annotated[float | None, typer.Option(help="Minimum cosine of a dense hit.")] = None,
    url: ServerUrl = None,
    collection: ServerCollection = None,
    api_key_env: ApiKeyEnv = None,
    grpc: PreferGrpc = False,
    as_json: AsJson = False,
) -> None:
    """Search the memories of a run, in its index or on a Qdrant server."""

    def command() -> None:
        from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

        options: dict[str, Any] = {"similarity_top_k": limit, "mode": mode, "threshold": threshold}
        if url is None:
            require_url({"--collection": collection, "--api-key-env": api_key_env, "--grpc": grpc})
        else:
            from llama_index_ace_finetune.stores.memory_store import DEFAULT_COLLECTION
            from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings

            options |= {
                "url": url,
                "collection": collection or DEFAULT_COLLECTION,
                "api_key": read_api_key(api_key_env),
                "client_options": ServerSettings(prefer_grpc=grpc),
            }
        retriever = FineTunedHybridRetriever.from_run(run_folder, **options)
        try:
            hits = retriever.retrieve(query)
        finally:
            retriever.close()
        emit([_plain(rank, hit) for rank, hit in enumerate(hits, start=1)], lambda screen: _print(hits, screen))

    execute(command, as_json=as_json)


def _plain(rank: int, hit: NodeWithScore) -> dict[str, Any]:
    from llama_index.core.schema import MetadataMode

    from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory

    found = {
        "rank": rank,
        "id": hit.node.node_id,
        "score": hit.score,
        "text": hit.node.get_content(MetadataMode.NONE),
        "metadata": hit.node.metadata,
    }
    if isinstance(hit, RetrievedMemory):
        legs = ("served_by", "dense_score", "dense_rank", "sparse_score", "sparse_rank", "leg_scores", "leg_ranks")
        found.update({name: getattr(hit, name) for name in legs})
    return found


def _print(hits: Sequence[NodeWithScore], screen: Console) -> None:
    from llama_index.core.schema import MetadataMode

    from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory

    if not hits:
        screen.print("no memory matched")
    for rank, hit in enumerate(hits, start=1):
        screen.print(f"{rank}. [{hit.score or 0:.3f}] {hit.node.get_content(MetadataMode.NONE)}", markup=False)
        if isinstance(hit, RetrievedMemory):
            ranks = {leg: f" (rank {rank})" for leg, rank in hit.leg_ranks.items()}
            found = ", ".join(
                f"{_LEGS.get(leg, leg)} {score:.3f}{ranks.get(leg, '')}" for leg, score in hit.leg_scores.items()
            )
            screen.print(f"   {hit.node.node_id}  {found}, served by {hit.served_by}", markup=False)


VERB = Verb(
    search,
    (
        'ace-finetune search my-run "big uploads time out"',
        'ace-finetune search my-run "big uploads time out" --mode dense --threshold 0.3 --json',
        'ace-finetune search my-run "big uploads time out" --url http://localhost:6333 --collection notes',
    ),
)
