"""Which of several base models to tune: compared untuned on dev, the cheapest of those that are about as good."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.local_bases import UNUSABLE, SkippedBase
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.evaluation.metrics.latency import Latency
from llama_index_ace_finetune.evaluation.stats.groups import number_groups
from llama_index_ace_finetune.evaluation.stats.standard_error import ROUNDING, standard_error
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet

logger = logging.getLogger(__name__)

RULE = (
    "Of the untuned base models whose MRR@10 on dev is within one standard error of the best, the one with the fewest "
    "bytes per memory is tuned; of those with the same, the one with the fewest parameters."
)
NONE_USABLE = "None of the base models on this machine can be loaded; give --base-model the name of one."
_TIMED = 30


@dataclass(frozen=True, slots=True)
class BaseScore:
    """An untuned base model on dev.

    Attributes:
        name: hub name, or the name of its folder.
        mrr: MRR@10.
        behind: how far that is below the best.
        standard_error: of `behind`, queries with the same positive in one cluster.
        query_ms: median milliseconds to encode a query; it decides nothing, as it depends on the machine.
        bytes_per_memory: of its vectors, in float32.
        parameters: number of its weights.
    """

    name: str
    mrr: float
    behind: float
    standard_error: float
    query_ms: float
    bytes_per_memory: int
    parameters: int

    def __str__(self) -> str:
        return (
            f"{self.name}: dev MRR@10 {self.mrr:.3f} ({self.behind:.3f} below the best, standard error "
            f"{self.standard_error:.3f}), {self.query_ms:.1f} ms per query, {self.bytes_per_memory} bytes per memory"
        )


@dataclass(frozen=True, slots=True)
class BaseChoice:
    """The scores of base models in the order in which they were given, and which is tuned.

    Attributes:
        scores: of each base model; none where there was only one.
        chosen: position of the one that is tuned, among those that were given.
        name: of that one.
        queries: number of dev queries.
        memories: number of memories that they were ranked over.
        skipped: models on this machine that were not compared, and why.
    """

    scores: tuple[BaseScore, ...]
    chosen: int
    name: str
    queries: int = 0
    memories: int = 0
    skipped: tuple[SkippedBase, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "rule": RULE,
            "chosen": self.name,
            "queries": self.queries,
            "memories": self.memories,
            "models": [asdict(score) for score in self.scores],
            "skipped": [asdict(one) for one in self.skipped],
        }


def choose_base(
    encoders: Sequence[tuple[str, Callable[[], Encoder]]], dev: DevSet, *, optional: Collection[int] = ()
) -> BaseChoice:
    """Compare base models by MRR@10 on dev, over the whole corpus, and choose one by `RULE`.

    Source: the one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984.

    Args:
        encoders: name of each model for reports, and a function that loads it; one is loaded at a time.
        dev: the dev queries.
        optional: positions of models that are skipped where they cannot be loaded or cannot encode.

    Raises:
        ModelError: if another one cannot, or none is left.
    """
    measured: dict[int, tuple[NDArray[np.float64], tuple[float, int, int]]] = {}
    skipped: list[SkippedBase] = []
    for position, (name, load) in enumerate(encoders):
        try:
            with opening(name):
                measured[position] = _measured(load(), dev)
        except ModelError as error:
            if position not in optional:
                raise
            logger.debug("%s", error)
            skipped.append(SkippedBase(name, UNUSABLE))
    if not measured:
        raise ModelError(NONE_USABLE)
    values, facts = zip(*measured.values(), strict=True)
    best, behind, errors = cheapest_near_best(
        np.stack(values), [(size, parameters) for _, size, parameters in facts], groups=dev.groups
    )
    scores = tuple(
        BaseScore(encoders[position][0], float(mrr.mean()), float(below), float(error), *fact)
        for position, mrr, below, error, fact in zip(measured, values, behind, errors, facts, strict=True)
    )
    return BaseChoice(
        scores,
        list(measured)[best],
        scores[best].name,
        len(dev.examples.queries),
        len(dev.examples.corpus),
        tuple(skipped),
    )


def cheapest_near_best(
    values: NDArray[np.float64], costs: Sequence[tuple[int, int]], *, groups: Sequence[str]
) -> tuple[int, list[float], list[float]]:
    """Return the position of the choice, how far each mean is below the best, and the standard errors of that.

    Args:
        values: per model and query, float [m, n].
        costs: of each model, compared in order.
        groups: the group of each query.
    """
    labels = number_groups(groups, values.shape[1])
    means = values.mean(axis=1).round(12)
    best = min(range(len(values)), key=lambda row: (-means[row], costs[row]))
    behind = [float((values[best] - row).mean()) for row in values]
    errors = [standard_error(values[best] - row, labels) for row in values]
    near = [row for row in range(len(values)) if behind[row] <= errors[row] + ROUNDING]
    return min(near, key=lambda row: (costs[row], -means[row])), behind, errors


def _measured(encoder: Encoder, dev: DevSet) -> tuple[NDArray[np.float64], tuple[float, int, int]]:
    scores = dev.score(encoder)
    latency = Latency.of(lambda query: encoder.encode_queries([query]), dev.examples.queries[:_TIMED])
    parameters = sum(weight.numel() for weight in encoder.model.parameters())
    return scores.mrr, (latency.p50_ms if latency else 0.0, 4 * encoder.dimension, parameters)
