"""RetrievedMemory: a result with the scores and ranks of both legs, and what served it."""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import NodeWithScore

ServedBy = Literal["finetuned", "base", "baseline", "lexical"]
"""What served a search.

- finetuned: a model with tuned weights.
- base: the base model as intended: the verdict chose it, or the training kept it.
- baseline: the base model as a fallback, because the model to serve is missing or failed.
- lexical: BM25 only, as requested (mode "sparse", or a weight of 0 for the dense leg), or because no model could serve.
"""


class RetrievedMemory(NodeWithScore):
    """A node with its score, what served the search, and the node's score and rank in each leg.

    The node is unchanged: nothing is added to its metadata, whose hash other retrievers use for fusion.
    """

    served_by: ServedBy = Field(description="What served the search; see `ServedBy`.")
    rrf_score: float = Field(description="Sum over legs of weight / (k + rank).")
    scaled_score: float = Field(description="The same divided by the largest possible, in [0, 1].")
    dense_score: float | None = Field(default=None, description="Cosine, if the dense leg found it.")
    dense_rank: int | None = Field(default=None, description="Rank in the dense leg, from 1.")
    sparse_score: float | None = Field(default=None, description="BM25 score, if that leg found it.")
    sparse_rank: int | None = Field(default=None, description="Rank in the BM25 leg, from 1.")
    query_id: str | None = Field(default=None, description="Id of the query in the query log, for feedback.")

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "RetrievedMemory"

    def origin(self) -> dict[str, Any]:
        """Return every field except the node, its score, and the id in a query log."""
        own = [name for name in type(self).model_fields if name not in (*NodeWithScore.model_fields, "query_id")]
        return {name: getattr(self, name) for name in own}
