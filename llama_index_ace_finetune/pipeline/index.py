"""Build the index that serves a model's memories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.stores.build_index import INDEX, build_index, index_grows, memory_nodes, new_index_folder
from llama_index_ace_finetune.utils.console import texts_progress
from llama_index_ace_finetune.utils.new_folder import place_folder, require_replaceable, tidy


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

    It is built aside and moved into place. With `replace`, an index of ours is replaced, and files that a user added
    to it are kept.

    Raises:
        OutputExistsError: if `path` holds something and `replace` is off.
        DatasetError: without memories.
    """
    nodes = memory_nodes(memories)
    if not nodes:
        raise DatasetError("There are no memories to index; give data that holds some.")
    check_index_output(path, replace=replace)
    with new_index_folder(path) as aside, texts_progress("indexing", 2 * len(nodes)) as progress:
        build_index(nodes, finetuned=tuned, baseline=base, path=aside, cache=cache, progress=progress).close()
    return len(nodes)


def place_index(folder: Path, path: Path) -> None:
    """Move an index that `write_index` made to `path`, in place of an older one of ours."""
    place_folder(folder, path, kind=INDEX, grows=index_grows())


def check_index_output(path: Path, *, replace: bool) -> None:
    """Check, before any work, that an index can be written to `path`.

    Raises:
        OutputExistsError: if it holds something and `replace` is off, or something that is no index of ours.
        AceFinetuneError: if nothing can be written there.
    """
    tidy(path)
    require_replaceable(path, kind=INDEX)
    if path.is_dir() and any(path.iterdir()) and not replace:
        raise OutputExistsError(
            f"The index folder {str(path)!r} already holds an index; give another one, or replace it with --replace."
        )
