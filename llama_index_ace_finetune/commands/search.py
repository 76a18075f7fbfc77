"""Print what a search found."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import MetadataMode, NodeWithScore

from llama_index_ace_finetune.commands.console import console
from llama_index_ace_finetune.retrievers.hybrid_search import RESULT_KEY


def print_hits(hits: Sequence[NodeWithScore]) -> None:
    """Print rank, score, text, and how each leg saw it."""
    screen = console()
    if not hits:
        screen.print("no memory matched")
    for rank, hit in enumerate(hits, start=1):
        how = hit.node.metadata[RESULT_KEY]
        legs = [
            f"{name} {how[f'{name}_score']:.3f} (rank {how[f'{name}_rank']})"
            for name in ("dense", "sparse")
            if how[f"{name}_rank"] is not None
        ]
        screen.print(f"{rank}. [{hit.score or 0:.3f}] {hit.node.get_content(MetadataMode.NONE)}", markup=False)
        screen.print(f"   {hit.node.node_id}  {', '.join(legs)}, served by {how['served_by']}", markup=False)
