"""Distillation losses, added to the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.training.config import DistillationName
from llama_index_ace_finetune.training.data.batches import NEGATIVE, POSITIVE


def listwise_distillation(similarities: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Return the mean over queries of KL(softmax(teacher / temperature) || softmax(similarity / temperature)).

    Each query's documents are those that the teacher scored. Source: RocketQAv2 (Ren et al. 2021, arXiv:2110.07367).

    Args:
        similarities: float tensor [queries, documents], cosines.
        teacher: float tensor of the same shape, NaN where the teacher gave no score.
        targets: not used.
        temperature: divisor of both; a teacher's scores have to be on the scale of cosines.

    Returns:
        Scalar tensor. Queries with fewer than two scored documents do not count; 0 if none has two.
    """
    known = ~torch.isnan(teacher)
    counted = known.sum(dim=1) > 1
    lowest = torch.finfo(torch.float32).min / 4
    ours = (similarities.float() / temperature).masked_fill(~known, lowest).log_softmax(dim=1)
    theirs = (teacher.float() / temperature).masked_fill(~known, lowest).log_softmax(dim=1)
    divergence = (theirs.exp() * (theirs - ours)).masked_fill(~known, 0).sum(dim=1)
    return (divergence * counted).sum() / counted.sum().clamp(min=1)


def margin_mse(similarities: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Return the mean squared difference between our margins and the teacher's.

    A margin is the score of a positive minus that of a negative of the same query. Source: Margin-MSE (Hofstätter
    et al. 2020, arXiv:2010.02666).

    Args:
        similarities: float tensor [queries, documents].
        teacher: float tensor of the same shape, NaN where the teacher gave no score.
        targets: integer tensor of the same shape, see `masked_ranking_loss`.
        temperature: not used.

    Returns:
        Scalar tensor; 0 if there is no pair.
    """
    known = ~torch.isnan(teacher)
    query, positive, negative = torch.nonzero(
        ((targets == POSITIVE) & known)[:, :, None] & ((targets == NEGATIVE) & known)[:, None, :], as_tuple=True
    )
    ours = similarities[query, positive].float() - similarities[query, negative].float()
    theirs = teacher[query, positive].float() - teacher[query, negative].float()
    return nn.functional.mse_loss(ours, theirs, reduction="sum") / max(1, len(query))


DISTILLATION_LOSSES: Final[Mapping[DistillationName, Callable[..., Tensor]]] = {
    "kl": listwise_distillation,
    "margin_mse": margin_mse,
}
"""All distillation losses, called with similarities, teacher, targets and `temperature`."""
