"""Load the model that a training starts from, and check that the settings can be trained with it."""

from __future__ import annotations

from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.training.base_encoding import base_encoding
from llama_index_ace_finetune.training.config import HYBRID_TEACHER, TrainingConfig
from llama_index_ace_finetune.training.loop.loggers import require_loggers
from llama_index_ace_finetune.training.modes.frozen_layers import require_layers
from llama_index_ace_finetune.training.modes.late_interaction import require_token_states
from llama_index_ace_finetune.training.modes.lora import require_peft


def load_base(config: TrainingConfig) -> Encoder:
    """Return the base model with its prompts.

    Raises:
        ModelError: if it, or the teacher, cannot be found or loaded, or it is a dual encoder already.
        TrainingError: if peft or a logger is needed and not installed, or a value of `dimensions` is too large.
    """
    require_loggers(config)
    if config.lora_rank is not None:
        require_peft()
    if config.teacher not in (None, HYBRID_TEACHER):
        resolve_checkpoint(str(config.teacher))  # before a mode that does without it is trained
    encoder = Encoder.load(config.base_model, settings=base_encoding(config))
    require_single_encoder(encoder)
    for length in config.dimensions:
        if length >= encoder.dimension:
            raise TrainingError(
                f"The training setting dimensions holds {length}, and vectors of {encoder.name!r} have "
                f"{encoder.dimension} dimensions in all; leave it out."
            )
    require_layers(encoder.model, config.frozen_layers)
    require_token_states(TokenEncoder(encoder), config)
    return encoder


def require_single_encoder(encoder: Encoder) -> None:
    """Raise ModelError for a dual encoder."""
    if any(type(module).__name__ == "Router" for module in encoder.model.children()):
        raise ModelError(
            f"The model {encoder.name!r} embeds queries and documents differently, which cannot be tuned further; "
            "start from its own base model."
        )
