"""State shared by all training modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.data.token_cache import TokenCache
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.retention import Retention
from llama_index_ace_finetune.training.ranks import ONE, Ranks

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseValues:
    """What a `TrainingContext` computes by the base model, as far as it is known; see its properties of these names."""

    tokens: TokenCache | None = None
    document_vectors: NDArray[np.float32] | None = None
    query_vectors: NDArray[np.float32] | None = None
    dev_query_vectors: NDArray[np.float32] | None = None
    base_scores: DevScores | None = None
    general_query_vectors: NDArray[np.float32] | None = None
    general_document_vectors: NDArray[np.float32] | None = None
    retention: Retention | None = None


def _unless_known(compute: Callable[[TrainingContext], T]) -> cached_property[T]:
    """A property that is computed once, or taken from `known`."""

    @wraps(compute)
    def value(context: TrainingContext) -> T:
        known: T | None = getattr(context.known, compute.__name__)
        return compute(context) if known is None else known

    return cached_property(value)


@dataclass(frozen=True)
class TrainingContext:
    """A base model, the examples, and the base's vectors of them, each computed once.

    Attributes:
        encoder: the base model; a mode that trains its weights restores them.
        examples: the training queries.
        dev: the dev queries over the same corpus; None if there are none.
        config: of the training.
        cache: folder for vectors; none by default.
        checkpoints: folder for the checkpoints of the modes; none by default.
        general: the queries of `config.retention`; None if it is not set.
        on_phase: called with the name of each phase that begins: a mode, or its evaluation.
        mining: settings with which the negatives of the examples were mined.
        tasks: further tasks that are trained along in modes that train all weights.
        ranks: the processes of the training, of which this is the first.
        known: what was computed before of the same encoder and texts, and is not computed again.
        largest_alpha: share of the tuned weights that ships at most.
    """

    encoder: Encoder
    examples: IndexedExamples
    dev: DevSet | None
    config: TrainingConfig
    cache: Path | None = None
    checkpoints: Path | None = None
    general: DevSet | None = None
    on_phase: Callable[[str], object] = lambda name: None
    mining: MiningSettings = field(default_factory=MiningSettings)
    tasks: tuple[TrainingTask, ...] = ()
    ranks: Ranks = ONE
    known: BaseValues = field(default_factory=BaseValues)
    largest_alpha: float = 1.0

    @property
    def computed(self) -> BaseValues:
        """What is known or was computed so far, to make another context with; nothing is computed for it."""
        have = vars(self)
        return replace(self.known, **{one.name: have[one.name] for one in fields(BaseValues) if one.name in have})

    def with_tasks(self, tasks: tuple[TrainingTask, ...]) -> TrainingContext:
        """Return the context with these further tasks; what was computed is kept."""
        return replace(self, tasks=tasks, known=self.computed)

    def checkpoints_of(self, mode: str) -> Path | None:
        """Return the folder for the checkpoints of one mode."""
        return self.checkpoints / mode if self.checkpoints else None

    def evaluation_phase(self, mode: str) -> Callable[[bool], object]:
        """Return a function that names the phase when an evaluation of the mode begins (True) or ends (False)."""
        return lambda begins: self.on_phase(f"{mode}: evaluating" if begins else mode)

    @_unless_known
    def tokens(self) -> TokenCache:
        """The tokens of the texts that are trained on."""
        return TokenCache(self.encoder.model, max_tokens=self.config.max_seq_length)

    @_unless_known
    def document_vectors(self) -> NDArray[np.float32]:
        """The base's vectors of the corpus, float32 [m, d]."""
        return self.encoder.encode_documents(self.examples.corpus, cache=self.cache)

    @_unless_known
    def query_vectors(self) -> NDArray[np.float32]:
        """The base's vectors of the training queries, float32 [n, d]."""
        return self.encoder.encode_queries(self.examples.queries, cache=self.cache)

    @_unless_known
    def dev_query_vectors(self) -> NDArray[np.float32]:
        """The base's vectors of the dev queries, float32 [k, d]."""
        assert self.dev is not None
        return self.encoder.encode_queries(self.dev.examples.queries, cache=self.cache)

    @_unless_known
    def base_scores(self) -> DevScores:
        """The base on dev, over the whole corpus."""
        assert self.dev is not None
        return self.dev.rank(self.dev_query_vectors, self.document_vectors)

    @_unless_known
    def general_query_vectors(self) -> NDArray[np.float32]:
        """The base's vectors of the general queries, float32 [g, d]."""
        assert self.general is not None
        return self.encoder.encode_queries(self.general.examples.queries, cache=self.cache)

    @_unless_known
    def general_document_vectors(self) -> NDArray[np.float32]:
        """The base's vectors of the memories of the general queries, float32 [h, d]."""
        assert self.general is not None
        return self.encoder.encode_documents(self.general.examples.corpus, cache=self.cache)

    @_unless_known
    def retention(self) -> Retention | None:
        """The base on the general queries, None without any; read it before the weights are trained."""
        if self.general is None:
            return None
        scores = self.general.rank(self.general_query_vectors, self.general_document_vectors)
        return Retention(self.general, float(scores.mrr.mean()), self.config.retention_loss)
