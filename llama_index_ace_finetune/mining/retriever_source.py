"""Candidates from a LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import MEMORY_ID_FIELDS, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, first_line
from llama_index_ace_finetune.mining.sources import UNKNOWN, Rankings, rankings_of_hits

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore


class RetrieverError(AceFinetuneError):
    """A retriever failed to return candidates."""


@dataclass(frozen=True)
class RetrieverSource:
    """Hits of a retriever, as rows of a dataset's answers.

    A hit is matched by its node id, then by its `ref_doc_id`, then by a memory id in its metadata, then by its text;
    a hit without a match is `UNKNOWN`. The number of hits may be limited by the retriever's `similarity_top_k`.

    Args:
        retriever: any LlamaIndex retriever.
        queries: texts of the queries that `search` gets by number.
        row_of_id: corpus row of every memory id, including duplicates of a text.
        row_of_text: corpus row of every normalised text.
    """

    retriever: BaseRetriever
    queries: Sequence[str]
    row_of_id: Mapping[str, int]
    row_of_text: Mapping[str, int]
    name: str = "retriever"

    @classmethod
    def over(cls, dataset: RetrievalDataset, retriever: BaseRetriever, queries: Sequence[str]) -> RetrieverSource:
        """Return the source whose rows are those of `dataset.answers`."""
        row_of_answer = {identifier: row for row, identifier in enumerate(dataset.answers)}
        return cls(
            retriever=retriever,
            queries=queries,
            row_of_id={memory: row_of_answer[answer] for memory, answer in dataset.answer_ids.items()},
            row_of_text={normalise(memory.text): row_of_answer[i] for i, memory in dataset.answers.items()},
        )

    def search(self, rows: NDArray[np.int64], k: int) -> Rankings:
        """See `CandidateSource`.

        Raises:
            RetrieverError: if the retriever fails, naming the query.
        """
        return rankings_of_hits([self._hits(self.queries[int(row)])[:k] for row in rows], k)

    def _hits(self, query: str) -> list[tuple[int, float]]:
        try:
            found = self.retriever.retrieve(query)
            return [(self.row(hit), float("nan") if hit.score is None else float(hit.score)) for hit in found]
        except Exception as error:
            raise RetrieverError(
                f"The retriever {type(self.retriever).__name__} failed for the query {query[:200]!r} "
                f"({first_line(error)}); fix the retriever or mine without it."
            ) from error

    def row(self, hit: NodeWithScore) -> int:
        """The corpus row of a hit, or `UNKNOWN`."""
        from llama_index.core.schema import MetadataMode

        node = hit.node
        for identifier in (node.node_id, node.ref_doc_id, *(node.metadata.get(field) for field in MEMORY_ID_FIELDS)):
            if identifier is not None and str(identifier) in self.row_of_id:
                return self.row_of_id[str(identifier)]
        for mode in (MetadataMode.EMBED, MetadataMode.NONE):
            row = self.row_of_text.get(normalise(node.get_content(mode)))
            if row is not None:
                return row
        return UNKNOWN
