"""Print what a search found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore
from rich.console import Console

from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.utils.console import show


def print_hits(hits: Sequence[NodeWithScore]) -> None:
    """Print rank, score, text, and how each leg saw it."""
    show([_plain(rank, hit) for rank, hit in enumerate(hits, start=1)], lambda screen: _print(hits, screen))


def _plain(rank: int, hit: NodeWithScore) -> dict[str, Any]:
    found = {
        "rank": rank,
        "id": hit.node.node_id,
        "score": hit.score,
        "text": hit.node.get_content(MetadataMode.NONE),
        "metadata": hit.node.metadata,
    }
    if isinstance(hit, RetrievedMemory):
        legs = ("served_by", "dense_score", "dense_rank", "sparse_score", "sparse_rank")
        found.update({name: getattr(hit, name) for name in legs})
    return found


def _print(hits: Sequence[NodeWithScore], screen: Console) -> None:
    if not hits:
        screen.print("no memory matched")
    for rank, hit in enumerate(hits, start=1):
        screen.print(f"{rank}. [{hit.score or 0:.3f}] {hit.node.get_content(MetadataMode.NONE)}", markup=False)
        if isinstance(hit, RetrievedMemory):
            legs = [("dense", hit.dense_score, hit.dense_rank), ("BM25", hit.sparse_score, hit.sparse_rank)]
            found = ", ".join(f"{name} {score:.3f} (rank {place})" for name, score, place in legs if score is not None)
            screen.print(f"   {hit.node.node_id}  {found}, served by {hit.served_by}", markup=False)
