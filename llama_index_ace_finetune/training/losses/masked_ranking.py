"""Multiple negatives ranking loss with several positives per query and a mask for suspected false negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.training.config import DistillationName
from llama_index_ace_finetune.training.data.batches import NEGATIVE, POSITIVE, QUERY_WEIGHT
from llama_index_ace_finetune.training.losses.distillation import DISTILLATION_LOSSES
from llama_index_ace_finetune.training.losses.divided_batch import DividedBatch
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits, embed, embed_with_states
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction


def masked_ranking_loss(
    similarities: Tensor, targets: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the (weighted) mean over queries of the contrastive loss of each query's positives.

    For a query with positives P and negatives N (masked documents are in neither), s = similarity / temperature:
        loss = mean over p in P of -log( exp(s_p) / (exp(s_p) + sum over n in N of exp(s_n)) )
    so that positives never compete with each other.

    Source: MultipleNegativesRankingLoss (Henderson et al. 2017, arXiv:1705.00652), extended to several positives.

    Args:
        similarities: float tensor [queries, documents], cosines.
        targets: integer tensor of the same shape: POSITIVE, NEGATIVE or MASKED.
        temperature: divisor of the cosines.
        weights: of the queries, float tensor [queries], above 0; None if they are equal.

    Returns:
        Scalar tensor. Queries without a positive do not count; 0 if none has one.
    """
    scaled = similarities.float() / temperature
    positive = targets == POSITIVE
    # The smallest finite number, not -inf: the gradient of logsumexp over a row of -inf is NaN.
    lowest = torch.finfo(scaled.dtype).min / 4
    negatives = torch.logsumexp(scaled.masked_fill(targets != NEGATIVE, lowest), dim=1, keepdim=True)
    per_positive = nn.functional.softplus(negatives - scaled) * positive
    count = positive.sum(dim=1)
    counted = count > 0
    per_query = per_positive.sum(dim=1) / count.clamp(min=1)
    if weights is None:
        return per_query.sum() / counted.sum().clamp(min=1)
    return (per_query * weights).sum() / weights[counted].sum().clamp(min=torch.finfo(scaled.dtype).tiny)


def symmetric_ranking_loss(
    similarities: Tensor, targets: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the mean of `masked_ranking_loss` from queries to documents and from documents to queries.

    A document has the largest weight of the queries to which it is relevant.

    Source: MultipleNegativesSymmetricRankingLoss, with its mask and several positives.
    """
    of_documents = None if weights is None else ((targets == POSITIVE) * weights[:, None]).amax(dim=0)
    forth = masked_ranking_loss(similarities, targets, temperature=temperature, weights=weights)
    back = masked_ranking_loss(similarities.T, targets.T, temperature=temperature, weights=of_documents)
    return (forth + back) / 2


class MaskedRankingLoss(nn.Module):
    """`masked_ranking_loss` over the two feature blocks (queries, distinct documents) of a batch.

    Args:
        model: embeds both blocks.
        temperature: divisor of the cosines.
        packed: see `embed`.
        symmetric: use `symmetric_ranking_loss`.
        dimensions: prefix lengths of the vectors to train too, with equal weight (Matryoshka
            representation learning, Kusupati et al. 2022, arXiv:2205.13147).
        distillation: loss added, with equal weight, if the labels hold teacher scores.
        late_interaction: a second loss, over the token states of the same forward pass; None for none.
        divided: embeds the blocks on all ranks of the training; None embeds them here.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float,
        packed: bool = False,
        symmetric: bool = False,
        dimensions: Sequence[int] = (),
        distillation: DistillationName = "kl",
        late_interaction: LateInteraction | None = None,
        divided: DividedBatch | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.packed = packed
        self.memory = ChunkLimits()
        self.dimensions = tuple(dimensions)
        self._distill = DISTILLATION_LOSSES[distillation]
        self._rank = symmetric_ranking_loss if symmetric else masked_ranking_loss
        self.late_interaction = late_interaction
        self.divided = divided

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Embed both blocks and compare every query with every document.

        `labels` are the targets [queries, documents]; or, with a teacher, float [2, queries, documents]: the targets
        and its scores. The block of the queries may hold their weights (`QUERY_WEIGHT`), which the distillation loss
        does not use.
        """
        targets, teacher = (labels[0].to(torch.int8), labels[1]) if labels.dim() == 3 else (labels, None)
        weights = features[0].get(QUERY_WEIGHT)
        features = [{name: value for name, value in block.items() if name != QUERY_WEIGHT} for block in features]
        late = self.late_interaction
        if late is None:
            blocks = (
                self.divided.embed(features, memory=self.memory)
                if self.divided
                else [embed(self.model, block, packed=self.packed, memory=self.memory) for block in features]
            )
            return self._of_vectors(*blocks, targets=targets, teacher=teacher, weights=weights)
        (queries, query_tokens), (documents, document_tokens) = (
            self.divided.embed_with_states(features, memory=self.memory)
            if self.divided
            else [embed_with_states(self.model, block, packed=self.packed, memory=self.memory) for block in features]
        )
        similarities = late.similarities(query_tokens, document_tokens)
        of_vectors = self._of_vectors(queries, documents, targets=targets, teacher=teacher, weights=weights)
        return of_vectors + late.weight * self._rank(
            similarities, targets, temperature=late.temperature, weights=weights
        )

    def _of_vectors(
        self, queries: Tensor, documents: Tensor, *, targets: Tensor, teacher: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        # In bfloat16 a cosine near 1 has steps of .004, and the temperature makes large ones of them.
        with torch.autocast(queries.device.type, enabled=False):
            similarities = [queries @ documents.T]
            for length in self.dimensions:
                short = (nn.functional.normalize(vectors[:, :length]) for vectors in (queries, documents))
                similarities.append(next(short) @ next(short).T)
        losses = [self._rank(each, targets, temperature=self.temperature, weights=weights) for each in similarities]
        loss = torch.stack(losses).mean()
        if teacher is None:
            return loss
        return loss + self._distill(similarities[0], teacher, targets, temperature=self.temperature)
