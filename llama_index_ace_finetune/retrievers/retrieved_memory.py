"""RetrievedMemory: a result with its scores and ranks in the legs, and what served it."""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import NodeWithScore

ServedBy = Literal["finetuned", "base", "baseline", "lexical"]
"""What served a search.

- finetuned: a model with tuned weights.
- base: the base model as intended: the verdict chose it, or the training kept it.
- baseline: the base model as a fallback, because the model to serve is missing or failed.
- lexical: lexical legs only, as requested (mode "sparse", or no weight for a leg with a model), or because no model
  could serve.
"""


class RetrievedMemory(NodeWithScore):
    """A node with its score, what served the search, and the node's score and rank in each leg.

    The node is unchanged: nothing is added to its metadata, whose hash other retrievers use for fusion.
    """

    served_by: ServedBy = Field(description="What served the search; see `ServedBy`.")
    rrf_score: float | None = Field(
        default=None, description="Sum over legs of weight / (k + rank); None with another fusion."
    )
    scaled_score: float = Field(description="The fused score in [0, 1].")
    dense_score: float | None = Field(
        default=None, description="Cosine; with fusion by rank, only if the dense leg found it."
    )
    dense_rank: int | None = Field(default=None, description="Rank in the dense leg, from 1, if it found it.")
    sparse_score: float | None = Field(
        default=None, description="BM25 score; with fusion by rank, only if that leg found it."
    )
    sparse_rank: int | None = Field(default=None, description="Rank in the BM25 leg, from 1, if it found it.")
    leg_scores: dict[str, float] = Field(default_factory=dict, description="The score in each leg, by the leg's name.")
    leg_ranks: dict[str, int] = Field(
        default_factory=dict, description="The rank in each leg that found it, from 1, by the leg's name."
    )
    skipped_legs: list[str] = Field(
        default_factory=list, description="Legs that could not serve this search; the others kept their weights."
    )
    query_id: str | None = Field(default=None, description="Id of the query in the query log, for feedback.")
    team: str | None = Field(default=None, description="Opaque id of the system that contributed it, in a comparison.")

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "RetrievedMemory"

    def origin(self) -> dict[str, Any]:
        """Return every field except the node, its score, the id in a query log and the team of a comparison."""
        left_out = (*NodeWithScore.model_fields, "query_id", "team")
        own = [name for name in type(self).model_fields if name not in left_out]
        return {name: getattr(self, name) for name in own}
