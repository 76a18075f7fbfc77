"""Where a model of ours comes from: `ace_finetune.json` in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import ModelError

PROVENANCE = "ace_finetune.json"


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return what `save_model_folder` recorded, or None for a model that was not trained here.

    Raises:
        ModelError: if the record is there but cannot be read.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"The file {str(file)!r} is corrupt ({error}); train or copy the model again.") from error
    if not isinstance(record, dict):
        raise ModelError(f"The file {str(file)!r} is corrupt (not an object); train or copy the model again.")
    return record
