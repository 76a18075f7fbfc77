"""The tuned model and its stand-in, with a tuned model that cannot be loaded told, not hidden."""

from __future__ import annotations

import logging
from pathlib import Path

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import ModelError

logger = logging.getLogger(__name__)


def load_models(
    model: str | Path, baseline: str | Path | None, *, fallback: str
) -> tuple[FineTunedEmbedding | None, FineTunedEmbedding | None]:
    """Return the tuned model with its weights loaded, and the baseline (loaded at its first use).

    With fallback "off" the baseline is None and a tuned model that cannot be loaded is an error; otherwise it is
    logged and None, and so is the baseline's failure.

    Raises:
        ModelError: with fallback "off", if the tuned model cannot be loaded.
    """
    tuned: FineTunedEmbedding | None = None
    try:
        tuned = FineTunedEmbedding(str(model))
        _ = tuned.encoder
    except ModelError as error:
        if fallback == "off":
            raise
        tuned = None
        logger.warning("the tuned model cannot be loaded, the baseline serves instead: %s", error)
    if fallback == "off" or baseline is None:
        return tuned, None
    try:
        return tuned, FineTunedEmbedding(str(baseline))
    except ModelError as error:
        logger.warning("the baseline model cannot be found, BM25 alone would stand in: %s", error)
        return tuned, None


def load_serving_models(
    model: str | Path, baseline: str | Path | None, *, vectors: str, fallback: str
) -> tuple[FineTunedEmbedding | None, FineTunedEmbedding | None]:
    """Return `load_models`, without the tuned model where a run chose the base's vectors ("base", not "model").

    With fallback "off", or where the baseline is not at hand, the tuned model serves in any case.

    Raises:
        ModelError: with fallback "off", if the tuned model cannot be loaded.
    """
    tuned, base = load_models(model, baseline, fallback=fallback)
    if vectors != "base":
        return tuned, base
    if base is not None:
        return None, base
    logger.warning("the run chose the base model's vectors, and the base model is not at hand: the tuned model serves")
    return tuned, None
