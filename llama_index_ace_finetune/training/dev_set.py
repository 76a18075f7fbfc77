"""Dev queries ranked over the full corpus, during and after training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.measures import HEADLINE, MRR, per_query
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.training.examples import IndexedExamples

DEPTH = 10


@dataclass(frozen=True)
class DevScores:
    """Per-query MRR@10 of one model on dev, float [n], and the headline means by measure name."""

    mrr: NDArray[np.float64]
    means: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DevSet:
    """The queries that choices are made on; never the test queries."""

    examples: IndexedExamples

    @property
    def groups(self) -> list[str]:
        """What each query is resampled with: its first right answer."""
        return [self.examples.corpus_ids[int(rows[0])] for rows in self.examples.relevant]

    def score(self, encoder: Encoder) -> DevScores:
        """Rank the whole corpus for every dev query with `encoder`."""
        queries = encoder.encode_queries(self.examples.queries)
        corpus = encoder.encode_documents(self.examples.corpus)
        rankings, _ = dense_top_k(queries, corpus, DEPTH)
        values = {str(measure): per_query(measure, rankings, self.examples.relevant) for measure in HEADLINE}
        return DevScores(
            mrr=values[str(MRR(DEPTH))], means={name: float(value.mean()) for name, value in values.items()}
        )
