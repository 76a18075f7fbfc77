"""Low-rank adapters in place of the weights, for base models that are too large to train whole."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig

_ADAPTER = "default"


def require_peft() -> None:
    """Raise TrainingError, which names the extra, where peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise TrainingError(
            "The training setting lora_rank needs the package peft, which is not installed; run "
            "`pip install 'llama-index-ace-finetune[lora]'`, or leave lora_rank out."
        )


def with_adapters(model: SentenceTransformer, config: TrainingConfig) -> SentenceTransformer:
    """Return a copy of `model` with a trainable adapter on every linear layer of its transformer.

    All other weights are frozen.

    An adapter adds alpha / rank * B A to a weight; B is 0 at first, so the copy gives the vectors of `model`.

    Source: LoRA (Hu et al. 2021, arXiv:2106.09685), by peft.

    Raises:
        ModelError: if the model has no transformer that peft knows.
        TrainingError: if peft is not installed.
    """
    require_peft()
    from peft import LoraConfig

    assert config.lora_rank is not None
    adapted = copy.deepcopy(model)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=cast(int, config.lora_alpha or 2 * config.lora_rank),  # peft takes any number
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            adapted.add_adapter(settings)
    except ValueError as error:
        raise ModelError(
            f"The model {config.base_model!r} takes no adapters ({' '.join(str(error).split())}); leave lora_rank out."
        ) from error
    return adapted


def merged_weights(adapted: SentenceTransformer) -> dict[str, Tensor]:
    """Return the state dict that the model without adapters needs to give the same vectors."""
    with torch.no_grad():
        added: dict[str, Tensor] = {
            f"{name}.weight": cast(Any, module).get_delta_weight(_ADAPTER)
            for name, module in adapted.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        plain = {
            name.replace(".base_layer.", "."): weight
            for name, weight in adapted.state_dict().items()
            if ".lora_" not in name
        }
        return {name: weight + added[name] if name in added else weight for name, weight in plain.items()}
