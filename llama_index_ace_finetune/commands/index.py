"""Build the index that serves a model's memories."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from llama_index_ace_finetune.commands.console import texts_progress
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes


def index_beside(model: Path) -> Path:
    """Return where the index of a model folder lies: `index` in a run folder, else `<model>_index` beside it."""
    folder = model.resolve()
    return folder.parent / ("index" if folder.name == "model" else f"{folder.name}_index")


def write_index(
    memories: Iterable[Memory],
    *,
    tuned: Encoder,
    base: Encoder,
    path: Path,
    replace: bool = False,
    cache: Path | None = None,
) -> int:
    """Embed memories with both models into an embedded store in `path`; return how many there are.

    Raises:
        OutputExistsError: if `path` holds something and `replace` is off.
        DatasetError: without memories.
    """
    nodes = memory_nodes(memories)
    if not nodes:
        raise DatasetError("There are no memories to index; give data that holds some.")
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        is_index = (path / "meta.json").is_file()
        if not (replace and is_index):
            remedy = "give another one, or replace it with --replace" if is_index else "give another one"
            raise OutputExistsError(f"The index folder {str(path)!r} already holds something; {remedy}.")
        shutil.rmtree(path)
    try:
        with texts_progress("indexing", 2 * len(nodes)) as progress:
            store = build_index(nodes, finetuned=tuned, baseline=base, path=path, cache=cache, progress=progress)
            store.close()
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return len(nodes)
