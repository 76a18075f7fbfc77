"""The legs, weights and fusion that a run chose, as options of a retriever."""

from __future__ import annotations

import logging
from pathlib import Path

from llama_index_ace_finetune.retrievers.retriever_options import RetrieverOptions, serving_options
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.serving import Serving

logger = logging.getLogger(__name__)


def with_run_weights(model: str | Path, options: RetrieverOptions) -> RetrieverOptions:
    """Return `options` with the legs and weights of a run, if `model` belongs to one and no weights are given."""
    run = RunFolder.of_model(model)
    if run is None or "weights" in options or "leg_weights" in options:
        return options
    serving = run.serving()
    if serving.vectors == "base":
        logger.warning(
            "the run in %s chose the base model, but its tuned model was requested and serves, with equal weights; "
            "from_run serves the chosen one",
            run.path,
        )
        return options
    return with_weights(serving, options)


def with_weights(serving: Serving, options: RetrieverOptions) -> RetrieverOptions:
    """Return `options` with the legs, weights and fusion of a run, if none are given."""
    if "weights" in options or "leg_weights" in options:
        return options
    chosen = serving_options(serving)
    if "fusion" in options and options["fusion"] != chosen.get("fusion", "rrf"):
        chosen = {"weights": serving.weights, "baseline_weights": serving.baseline_weights}
    return {**chosen, **options}
