"""Where a model of ours comes from: `ace_finetune.json` in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.refusal import Refusal

PROVENANCE = "ace_finetune.json"
_RECORD = Refusal("The file", "train or copy the model again", ModelError)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return what `save_model_folder` recorded, or None for a model that was not trained here.

    Raises:
        ModelError: if the record is there but cannot be read.
    """
    file = folder / PROVENANCE
    return read_json_object(file, _RECORD) if file.is_file() else None
