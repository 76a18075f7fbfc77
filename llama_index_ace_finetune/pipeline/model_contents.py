"""Settings with the contents of models in place of their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.training.config import HYBRID_TEACHER

_MODELS: Final = frozenset({"base_model", "teacher", "sparse_encoder"})


def by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with fingerprints of model folders in place of their names, since a folder can be retrained.

    Hub names stay, and `hybrid`, the teacher without a folder.
    """
    models = {name for name, value in settings.items() if name in _MODELS and value not in (None, "", HYBRID_TEACHER)}
    return {name: _model_content(value) if name in models else value for name, value in settings.items()}


def _model_content(name: str) -> str:
    folder = Path(name).expanduser()
    return fingerprint_folder(folder, {}) if folder.is_dir() else name
