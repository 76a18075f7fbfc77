"""Late interaction in mode `full`: its loss, and the dev sets on which its weights are selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import choose_projection
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.loop.budget import EvaluationCost
from llama_index_ace_finetune.training.loop.evaluation_cost import measure_evaluation_cost
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import Selection
from llama_index_ace_finetune.training.model_selection.late_interaction import is_as_good
from llama_index_ace_finetune.training.model_selection.reranked_dev_set import RerankedDevSet
from llama_index_ace_finetune.training.modes.result import ModeResult


def require_token_states(encoder: TokenEncoder, config: TrainingConfig) -> None:
    """Check that late interaction can be trained from this base model.

    Raises:
        ModelError: if it has no token states.
        TrainingError: if they are not longer than `late_interaction_dimensions`.
    """
    length = config.late_interaction_dimensions
    if config.late_interaction_weight and length is not None and length >= encoder.dimension:
        raise TrainingError(
            f"The training setting late_interaction_dimensions is {length}, and the token states of "
            f"{encoder.encoder.name!r} have {encoder.dimension} dimensions in all; leave it out."
        )
    if config.late_interaction_weight:
        encoder.encode_queries(["a"])


def late_interaction_of(context: TrainingContext) -> LateInteraction | None:
    """Return the second loss of a training; None if the settings have no weight for it."""
    config = context.config
    if not config.late_interaction_weight:
        return None
    projection = choose_projection(
        context.encoder, context.examples.corpus, TokenSettings(dimension=config.late_interaction_dimensions)
    )
    return LateInteraction(
        weight=config.late_interaction_weight,
        temperature=config.late_interaction_temperature,
        projection=None if projection is None else torch.from_numpy(projection),
    )


@dataclass(frozen=True)
class SelectionSets:
    """The dev queries on which weights are selected; make it before the weights are trained.

    Attributes:
        dev: for the decision to ship.
        pool: for the choice of alpha.
        base_scores: of the base on `dev`.
        base_on_pool: of the base on `pool`; None if it has to be evaluated again.
    """

    dev: DevSet
    pool: DevSet
    base_scores: DevScores
    base_on_pool: DevScores | None

    @classmethod
    def of(
        cls, context: TrainingContext, *, pool: DevSet, pool_scores: DevScores, late: LateInteraction | None
    ) -> SelectionSets:
        """Return the sets of `context` with the smaller `pool`; with late interaction, ranked again by MaxSim."""
        assert context.dev is not None
        if late is None:
            return cls(context.dev, pool, context.base_scores, pool_scores)
        dev = RerankedDevSet(context.dev.examples, late.matrix)
        small = dev if pool is context.dev else RerankedDevSet(pool.examples, late.matrix)
        return cls(dev, small, dev.score(context.encoder), None)

    def known(self, tuned: DevScores) -> Mapping[float, DevScores]:
        """Return the scores by alpha that need no evaluation; `tuned` are those of the tuned weights on the pool."""
        return {} if self.base_on_pool is None else {0.0: self.base_on_pool, 1.0: tuned}

    def evaluation_cost(self, context: TrainingContext, pool: DevSet) -> EvaluationCost:
        """Return the seconds of an evaluation on `pool` during training, and of the selection."""
        cost = measure_evaluation_cost(
            context.encoder,
            pool=self.pool,
            dev=self.dev,
            alphas=context.config.interpolation,
            retention=context.retention,
        )
        if self.base_on_pool is not None:
            return cost
        return EvaluationCost(each=pool.score_seconds(context.encoder), after=cost.after + 2 * cost.each)


def is_preferred(selection: Selection | None, previous: Sequence[ModeResult], dev: DevSet | None) -> bool:
    """Whether weights that were trained for MaxSim too ship although another mode may be better by single vectors.

    They do if they are at most one standard error worse than each of the other modes, and re-rank better than the base,
    whose token vectors the other modes leave as they are.
    """
    if not (dev and selection and selection.scores and selection.late_interaction):
        return False
    others = [result.selection.scores for result in previous if result.ships and result.selection]
    return selection.late_interaction.is_better and all(
        is_as_good(selection.scores, other, groups=dev.groups) for other in others if other
    )
