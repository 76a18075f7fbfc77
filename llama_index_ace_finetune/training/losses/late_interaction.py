"""MaxSim of the token states that the single vectors of a batch are pooled from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index_ace_finetune.training.losses.embed_batch import BatchTokens
from llama_index_ace_finetune.training.losses.max_sim import max_sim


class LateInteraction(nn.Module):
    """What is trained besides the single vectors: the MaxSim of queries and documents.

    Args:
        weight: of its loss, beside that of the single vectors.
        temperature: divisor of MaxSim in the softmax.
        projection: float32 [width, d], the initial value of a matrix that is trained along and shortens the token
            vectors; None leaves them as they are.
    """

    projection: nn.Parameter | None

    def __init__(self, *, weight: float, temperature: float, projection: Tensor | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.projection = None if projection is None else nn.Parameter(projection.clone())

    def matrix(self) -> NDArray[np.float32] | None:
        """Return a copy of the projection."""
        return None if self.projection is None else self.projection.detach().cpu().numpy().copy()

    def interpolate(self, base: NDArray[np.float32] | None, tuned: Tensor | None, alpha: float) -> None:
        """Set the projection to (1 - alpha) * base + alpha * tuned, as the weights of the model are."""
        if self.projection is None or base is None or tuned is None:
            return
        with torch.no_grad():
            self.projection.copy_(torch.lerp(torch.from_numpy(base), tuned, alpha))

    def similarities(self, queries: BatchTokens, documents: BatchTokens) -> Tensor:
        """Return the MaxSim of each query and each document, float32 [queries, documents], in batch order."""
        scores = max_sim(
            self._vectors(queries),
            queries.lengths,
            self._vectors(documents),
            documents.lengths,
            products=_product_type(documents.states),
        )
        return scores[torch.argsort(queries.order)][:, torch.argsort(documents.order)]

    def _vectors(self, tokens: BatchTokens) -> Tensor:
        """The unit token vectors, float32 [tokens, d]."""
        states = tokens.states
        if self.projection is not None:
            states = states @ self.projection.to(states.dtype)
        return nn.functional.normalize(states.float(), dim=1)


def _product_type(states: Tensor) -> torch.dtype:
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
