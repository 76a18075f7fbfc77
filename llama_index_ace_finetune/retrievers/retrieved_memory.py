"""RetrievedMemory: a result that tells how it came about."""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import NodeWithScore

ServedBy = Literal["finetuned", "base", "baseline", "lexical"]
"""What answered a search.

- finetuned: a model with tuned weights.
- base: a model without, because it is what serves: the verdict chose it, or the training kept it.
- baseline: the base model, because the model that ought to serve is missing or failed.
- lexical: BM25 only, as asked (mode "sparse", or a weight of 0 for the dense leg), or because no model could serve.
"""


class RetrievedMemory(NodeWithScore):
    """A node with its score, and beside it what served the search and how each leg saw the node.

    The node itself is as it was indexed: nothing is added to its metadata, whose hash other retrievers fuse by.
    """

    served_by: ServedBy = Field(description="What answered the search; see `ServedBy`.")
    rrf_score: float = Field(description="Sum over legs of weight / (k + rank).")
    scaled_score: float = Field(description="The same divided by the largest possible, in [0, 1].")
    dense_score: float | None = Field(default=None, description="Cosine, where the dense leg found it.")
    dense_rank: int | None = Field(default=None, description="Rank in the dense leg, from 1.")
    sparse_score: float | None = Field(default=None, description="BM25 score, where that leg found it.")
    sparse_rank: int | None = Field(default=None, description="Rank in the BM25 leg, from 1.")

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "RetrievedMemory"

    def origin(self) -> dict[str, Any]:
        """Return how the result came about: every field but the node and its score."""
        own = [name for name in type(self).model_fields if name not in NodeWithScore.model_fields]
        return {name: getattr(self, name) for name in own}
