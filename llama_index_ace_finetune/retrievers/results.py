"""Results of a search from its fused rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_index.core.schema import BaseNode, IndexNode

from llama_index_ace_finetune.retrievers.fuse import FusedMemory
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory, ServedBy
from llama_index_ace_finetune.retrievers.search_settings import SearchSettings

# LlamaIndex treats a score of 0 of an IndexNode as missing, and replaces it by 1.
_SMALLEST_SCORE = 1e-9


def results(
    fused: Sequence[FusedMemory],
    nodes: Mapping[str, BaseNode],
    served_by: ServedBy,
    settings: SearchSettings,
    skipped: Sequence[str],
) -> list[RetrievedMemory]:
    """Return the first `top_k` memories that have a node; others are unreadable or deleted."""
    found = []
    for memory in [memory for memory in fused if memory.node_id in nodes][: settings.top_k]:
        scores, ranks = memory.leg_scores, memory.leg_ranks
        own = {"hybrid": None, "dense": scores.get("dense"), "sparse": scores.get("bm25")}[settings.mode]
        node, score = nodes[memory.node_id], memory.score if own is None else own
        if isinstance(node, IndexNode):
            score = score or _SMALLEST_SCORE
        found.append(
            RetrievedMemory(
                node=node,
                score=score,
                served_by=served_by,
                rrf_score=memory.rrf,
                scaled_score=memory.score,
                dense_score=scores.get("dense"),
                dense_rank=ranks.get("dense"),
                sparse_score=scores.get("bm25"),
                sparse_rank=ranks.get("bm25"),
                leg_scores=dict(scores),
                leg_ranks=dict(ranks),
                skipped_legs=list(skipped),
            )
        )
    return found


def copies(fused: Sequence[FusedMemory], nodes: Mapping[str, BaseNode], top_k: int) -> dict[str, BaseNode]:
    """Return copies of the nodes of one query, since callers may change them."""
    found = [memory.node_id for memory in fused if memory.node_id in nodes][:top_k]
    return {node_id: nodes[node_id].model_copy(deep=True) for node_id in found}
