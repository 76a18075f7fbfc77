"""Load the tuned model and the baseline; a model that cannot be loaded is logged, or an error without a fallback."""

from __future__ import annotations

import logging
from pathlib import Path

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.provenance import read_provenance, settings_of_base
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, first_line
from llama_index_ace_finetune.retrievers.fallback import Serve

logger = logging.getLogger(__name__)


def load_models(
    model: str | Path, baseline: str | Path | None, *, fallback: str
) -> tuple[FineTunedEmbedding | None, FineTunedEmbedding | None]:
    """Return the tuned model with its weights loaded, and the baseline (loaded at its first use).

    With fallback "off", the baseline is None, and a tuned model that cannot be loaded is an error. Otherwise a model
    that cannot be loaded is logged and None.

    Raises:
        ModelError: with fallback "off", if the tuned model cannot be loaded.
    """
    tuned: FineTunedEmbedding | None = None
    try:
        tuned = FineTunedEmbedding(str(model))
        _ = tuned.encoder
    except Exception as error:  # of any library, or of the file system
        if fallback == "off":
            raise error if isinstance(error, ModelError) else _cannot_be_loaded(model, error) from error
        tuned = None
        logger.warning("the tuned model cannot be loaded, falling back to the baseline: %s", error)
    if fallback == "off" or baseline is None:
        return tuned, None
    try:
        return tuned, _baseline(model, baseline)
    except Exception as error:
        logger.warning("the baseline model cannot be found, BM25 is the only fallback: %s", error)
        return tuned, None


def load_serving_models(
    model: str | Path, baseline: str | Path | None, *, vectors: str, fallback: str
) -> tuple[FineTunedEmbedding | None, FineTunedEmbedding | None, Serve]:
    """Return the tuned model, the baseline, and which of them serves, as a run chose.

    If the run chose the base model's vectors (`vectors` is "base", not "model"), the base model serves and the tuned
    one is not loaded. If the base model cannot be loaded, the tuned model serves instead, and a warning is logged.

    Raises:
        ModelError: with fallback "off", if the model to serve cannot be loaded.
    """
    if vectors == "base":
        try:
            if baseline is None:
                raise ModelError(f"The run of {str(model)!r} does not name its base model; give it as `baseline`.")
            base = _baseline(model, baseline)
            _ = base.encoder
        except Exception as error:
            if fallback == "off":
                raise error if isinstance(error, ModelError) else _cannot_be_loaded(str(baseline), error) from error
            logger.warning(
                "the base model, which the run chose, cannot be loaded; falling back to the tuned model: %s", error
            )
        else:
            return None, base, "base"
        baseline = None
    return *load_models(model, baseline, fallback=fallback), "finetuned"


def _baseline(model: str | Path, baseline: str | Path) -> FineTunedEmbedding:
    """Return the baseline, with the prompts that the model was trained with if it is the model's own base."""
    try:
        record = read_provenance(Path(model))
    except (ModelError, OSError):
        record = None  # loading the model raises the error
    own = settings_of_base(record, baseline, EncoderSettings())
    return FineTunedEmbedding(str(baseline), query_prompt=own.query_prompt, text_prompt=own.document_prompt)


def _cannot_be_loaded(model: str | Path, error: Exception) -> ModelError:
    return ModelError(
        f"The model {str(model)!r} cannot be loaded ({first_line(error)}); check that it is complete and readable."
    )
