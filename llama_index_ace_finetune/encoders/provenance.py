"""The provenance record of a model trained by this package: `ace_finetune.json` in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.encoders.checkpoints import find_cached
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.old_settings import current_metadata, current_training
from llama_index_ace_finetune.utils.read_json import read_json_object

PROVENANCE = "ace_finetune.json"
FORMAT_VERSION = 2
_RECORD = Refusal("The file", "train or copy the model again", ModelError)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return the record of `save_model_folder`, or None for a model without one.

    Raises:
        ModelError: if the record exists but cannot be read.
    """
    file = folder / PROVENANCE
    return _current(read_json_object(file, _RECORD)) if file.is_file() else None


def settings_of_base(record: dict[str, Any] | None, base_model: object, settings: EncoderSettings) -> EncoderSettings:
    """Return the settings with the prompts that a training set for this base model; unchanged for any other model."""
    config = (record or {}).get("config") or {}
    if not record or str(record.get("base_model")) != str(base_model):
        return settings
    return replace(settings, query_prompt=config.get("query_prompt"), document_prompt=config.get("document_prompt"))


def read_base_provenance(model: str | Path) -> dict[str, Any] | None:
    """Return the record of a model that a training starts from; None for one that this package did not train.

    That of a hub name is read from the hub cache; None if the model was not downloaded yet.
    """
    folder = Path(model).expanduser()
    found = folder if folder.is_dir() else find_cached(str(model))
    return read_provenance(found) if found else None


def _current(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record to `FORMAT_VERSION`."""
    if record.get("format_version") != 1:
        return record
    record = {**record, "format_version": FORMAT_VERSION}
    for name, current in (("config", current_training), ("data", current_metadata)):
        if isinstance(record.get(name), dict):
            record[name] = current(record[name])
    return record
