"""The model folder: what `encode_query` and `encode_document` load, plus where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.provenance import FORMAT_VERSION, PROVENANCE, read_base_provenance
from llama_index_ace_finetune.late_interaction.trained_projection import write_trained_projection
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.model_selection.interpolation import Selection
from llama_index_ace_finetune.training.saving.model_card import model_card
from llama_index_ace_finetune.training.saving.plot import plot_training
from llama_index_ace_finetune.training.saving.serving_layout import use_serving_layout
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.new_folder import new_folder, require_replaceable

CURVE = "training_curve.png"
MODEL = "model"


def save_model_folder(
    encoder: Encoder,
    path: Path,
    *,
    base: Encoder,
    config: TrainingConfig,
    selection: Selection | None,
    metrics: dict[str, Any],
    history: Sequence[Mapping[str, float]],
    data: TrainingData,
    train: IndexedExamples,
    dev: IndexedExamples | None,
    keeps_documents: bool,
    further: Sequence[IndexedExamples] = (),
    token_projection: NDArray[np.float32] | None = None,
) -> Path:
    """Write the model with its card and provenance to `path`, whole or not at all, and return `path`.

    `keeps_documents` says that documents are embedded as the base model does it. `further` are the examples of further
    datasets, which the model has seen too. `token_projection`, float32
    [width, d], is that of the token states, if one was trained.

    A model folder of ours is replaced, since retraining into the same place is usual; files that a user added to it
    are kept, and any other folder is refused.

    Raises:
        OutputExistsError: if `path` holds something that is not a model of ours.
    """
    require_replaceable(path, kind=MODEL)
    # Weights that training started from have seen other queries, and were tested on others.
    base_record = read_base_provenance(config.base_model) or {}
    earlier = base_record.get("seen") or {}
    provenance = {
        "format_version": FORMAT_VERSION,
        "base_model": config.base_model,
        "base_fingerprint": base.fingerprint,
        "document_fingerprint": base.document_fingerprint if keeps_documents else None,
        "selection": selection.to_dict() if selection else None,
        "metrics": {name: value for name, value in metrics.items() if name != "selection"},
        "config": _without_paths(config),
        "prompts": dict(encoder.model.prompts),
        "data": {**_named(data.metadata), "total_examples": len(data.examples), "memories": len(data.memories)},
        "split": data.split,
        # What the model has seen, so that an evaluation can leave it out.
        "seen": {
            "train": _seen((train, *further), earlier.get("train")),
            "dev": _seen((dev,) if dev else (), earlier.get("dev")),
        },
        "held_out": _held_out(data.split, base_record),
        "history": [dict(row) for row in history],
    }
    with new_folder(path, kind=MODEL) as folder:
        encoder.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
        use_serving_layout(folder)
        if token_projection is not None:
            write_trained_projection(folder, token_projection)
        provenance["fingerprint"] = fingerprint_folder(folder, {})
        write_json(folder / PROVENANCE, provenance)
        plot_training(history, folder / CURVE)
        (folder / "README.md").write_text(model_card(provenance, folder), encoding="utf-8")
        for file in folder.rglob("*"):
            # safetensors writes weights for their owner only; a server often runs as somebody else.
            file.chmod(0o755 if file.is_dir() else 0o644)
    return path


def _named(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The data's metadata with the name of its source instead of a path on the machine that trained."""
    return {**metadata, "source": Path(str(metadata.get("source", ""))).name or "unknown"}


def _without_paths(config: TrainingConfig) -> dict[str, Any]:
    """The settings without the output, and with the names of further data instead of their paths."""
    settings = {name: value for name, value in config.to_dict().items() if name != "output_dir"}
    settings["also"] = [Path(path).name for path in config.also]
    return {**settings, "retention": Path(config.retention).name} if config.retention else settings


def _seen(parts: Sequence[IndexedExamples], earlier: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    queries, answers = (set((earlier or {}).get(name) or ()) for name in ("query_hashes", "answer_hashes"))
    for examples in parts:
        queries |= {text_hash(text) for text in examples.queries}
        answers |= {text_hash(examples.corpus[row]) for row in {int(row) for rows in examples.relevant for row in rows}}
    return {"query_hashes": sorted(queries), "answer_hashes": sorted(answers)}


def _held_out(split: Mapping[str, Any] | None, base_record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the hashes of the test queries and their positives, of this training and of those before it."""
    parts = EarlierSplit.of_record({**base_record, "seen": {}})
    now = EarlierSplit.of_manifest(split or {})
    return {
        name: sorted(getattr(now, kind)["test"] | (getattr(parts, kind)["test"] if parts else frozenset()))
        for name, kind in (("query_hashes", "queries"), ("answer_hashes", "answers"))
    }
