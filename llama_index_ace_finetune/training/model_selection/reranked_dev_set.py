"""Dev queries ranked by single vectors, and their first hits again by the MaxSim of token vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.late_interaction.max_sim import LOWEST, max_sim_scores
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.own_documents import without_own
from llama_index_ace_finetune.training.model_selection.dev_set import DEPTH, DevScores, DevSet

CANDIDATES = 100
MAX_SIM = f"MaxSim MRR@{DEPTH}"
_CHUNK = 1024


@dataclass(frozen=True)
class RerankedDevSet(DevSet):
    """A dev set whose scores also hold the MRR@10 after re-ranking the first 100 hits by MaxSim.

    Attributes:
        projection: returns the current projection of the token states, float32 [width, d]; None for none.
    """

    projection: Callable[[], NDArray[np.float32] | None] = lambda: None

    def score(self, encoder: Encoder) -> DevScores:
        """Rank the corpus for every dev query with `encoder`, then the first 100 hits by its token vectors."""
        queries = encoder.encode_queries(self.examples.queries)
        documents = encoder.encode_documents(self.examples.corpus)
        found = dense_top_k(queries, documents, CANDIDATES + 1)[0]
        candidates, _ = without_own(found, self.examples.own, limit=CANDIDATES)
        scores = self._max_sim(TokenEncoder(encoder, self.projection()), candidates)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        reranked = np.take_along_axis(candidates, order, axis=1)
        max_sim = per_query(MRR(DEPTH), reranked, self.examples.relevant)
        plain = self.rank(queries, documents)
        means = {**plain.means, MAX_SIM: float(max_sim.mean())}
        return dataclasses.replace(plain, max_sim=max_sim, means=means, documents=documents)

    def score_seconds(self, encoder: Encoder) -> float:
        """Return an estimate of the seconds that `score` takes: every text is encoded twice."""
        return 2 * super().score_seconds(encoder)

    def _max_sim(self, tokens: TokenEncoder, candidates: NDArray[np.int32]) -> NDArray[np.float64]:
        """The MaxSim of each query and its candidates; the token vectors of one chunk of documents are in memory."""
        corpus, queries = self.examples.corpus, tokens.encode_queries(self.examples.queries)
        scores = np.full(candidates.shape, LOWEST)
        needed = sorted(np.unique(candidates[candidates >= 0]), key=lambda row: len(corpus[row]))
        for start in range(0, len(needed), _CHUNK):
            rows = needed[start : start + _CHUNK]
            place = np.full(len(corpus) + 1, -1, np.int64)  # the last is for padding, -1
            place[rows] = np.arange(len(rows))
            local = place[candidates]
            documents = tokens.encode_documents([corpus[row] for row in rows])
            scores = np.maximum(scores, max_sim_scores(queries, documents, local))
        return scores
