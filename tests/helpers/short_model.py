"""The default base model with its published weights and a low token limit, so that short texts are truncated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint

LIMIT = 32
CONFIG = "sentence_bert_config.json"


def short_model(folder: Path) -> Path:
    """Write a model folder that shares the files of the base model, and return it."""
    source = resolve_checkpoint(DEFAULT_BASE_MODEL)
    for file in source.rglob("*"):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.name != CONFIG:
            try:
                target.hardlink_to(file.resolve())
            except OSError:  # on another file system
                shutil.copy(file, target)
    settings = json.loads((source / CONFIG).read_text("utf-8"))
    (folder / CONFIG).write_text(json.dumps({**settings, "max_seq_length": LIMIT}), "utf-8")
    return folder
