"""Where a broken-off training goes on from."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.training.watcher import SEEN


def last_checkpoint(folder: Path | None) -> Path | None:
    """Return the newest whole checkpoint in `folder`, None where there is none."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{SEEN}")] if folder else []
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
