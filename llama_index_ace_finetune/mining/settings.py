"""How hard negatives are chosen."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index_ace_finetune.errors import AceFinetuneError


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Settings of `HardNegativeMiner`.

    Attributes:
        top_k: candidates taken from each source per query.
        relative_margin: a candidate is kept if its cosine with the query is at most this share of the right
            answer's (NV-Retriever's "perc-pos", Moreira et al. 2024); 1 or more keeps all up to the right answer
            itself and beyond; None switches the filter off.
        near_duplicate: candidates whose cosine with a right answer reaches this are taken for the answer itself.
        bm25: take candidates from BM25 besides the embedding model.
    """

    top_k: int = 20
    relative_margin: float | None = None
    near_duplicate: float = 0.95
    bm25: bool = True

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise AceFinetuneError(f"The mining setting top_k is {self.top_k}; it must be at least 1.")
        if not 0 < self.near_duplicate <= 1.0001:
            raise AceFinetuneError(f"The mining setting near_duplicate is {self.near_duplicate}; it must be in (0, 1].")
