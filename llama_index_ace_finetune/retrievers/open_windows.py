"""Open or build the windows of a store's long texts; ones that cannot be opened are logged, and not used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.retrievers.open_or_warn import open_or_warn
from llama_index_ace_finetune.run_folder import window_folder
from llama_index_ace_finetune.stores.memory_store import MemoryStore


def open_windows(index: Path | None, model: BaseEmbedding | None, *, used: bool) -> StoredWindows | None:
    """Return the windows of an index by the model that serves; None, with a warning, if they are unusable.

    None without a warning if windows are not `used`. Without an index, none are stored yet.
    """
    if not used or not isinstance(model, FineTunedEmbedding):
        return None
    encoder = WindowEncoder(model.encoder)
    if index is None:
        return StoredWindows(encoder)
    return open_or_warn("windows of long texts are not used", lambda: StoredWindows.open(window_folder(index), encoder))


def build_windows(
    texts: Iterable[str],
    encoder: Encoder,
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> StoredWindows:
    """Encode the windows of texts, in memory or in a folder.

    Args:
        texts: of the memories.
        encoder: the model that serves.
        folder: to write to.
        cache: folder for vectors.
        progress: called with the number of windows just encoded.
    """
    windows = StoredWindows(WindowEncoder(encoder))
    windows.add(texts, cache=cache, progress=progress)
    if folder is None:
        return windows
    windows.save(folder)
    return StoredWindows.open(folder, windows.encoder)


def build_store_windows(
    store: MemoryStore, model: BaseEmbedding, *, used: bool, index: Path | None = None
) -> StoredWindows | None:
    """Encode the windows of a new store, in memory or in the folder of its `index`; None if windows are not `used`."""
    if not used or not isinstance(model, FineTunedEmbedding):
        return None
    texts = (node.get_content(MetadataMode.EMBED) for node in store.nodes())
    return build_windows(texts, model.encoder, folder=None if index is None else window_folder(index))
