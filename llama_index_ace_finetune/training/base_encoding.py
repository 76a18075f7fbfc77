"""How the base model of a training is loaded."""

from __future__ import annotations

from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.training.config import TrainingConfig


def base_encoding(config: TrainingConfig) -> EncoderSettings:
    """Return the device, precision and prompts with which a training loads its base model."""
    return EncoderSettings(
        device=config.device,
        precision=config.precision,
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
    )
