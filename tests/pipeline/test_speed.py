"""The speed of this machine is measured in the precision that training uses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.pipeline import speed


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_computed_in_the_precision_of_the_encoder(
    precision: str, minilm: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(minilm.settings, precision=precision)  # type: ignore[arg-type]
    encoder = Encoder(minilm.model, name=minilm.name, fingerprint=minilm.fingerprint, settings=settings)
    used: list[bool] = []

    def embed(model: object, features: dict[str, Tensor], *, packed: bool) -> Tensor:
        used.append(torch.is_autocast_enabled("cpu"))
        return torch.ones(2, 3, requires_grad=True)

    monkeypatch.setattr(speed, "embed", embed)
    speed._train(encoder, ["one", "two"])
    assert used == [precision == "bfloat16"]
