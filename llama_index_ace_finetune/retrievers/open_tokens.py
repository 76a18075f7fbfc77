"""Open or build the token vectors of a store's memories; ones that cannot be opened are logged, and not used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker, choose_projection
from llama_index_ace_finetune.late_interaction.trained_projection import read_trained_projection
from llama_index_ace_finetune.retrievers.open_or_warn import open_or_warn
from llama_index_ace_finetune.retrievers.retriever_options import RetrieverOptions
from llama_index_ace_finetune.run_folder import token_folder
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.text_key import text_key

logger = logging.getLogger(__name__)


def uses_late_interaction(options: RetrieverOptions) -> bool:
    """Whether the options give late interaction a weight."""
    return bool((options.get("leg_weights") or {}).get("late"))


def open_tokens(
    index: Path, model: FineTunedEmbedding | None, options: RetrieverOptions | None = None
) -> TokenReranker | None:
    """Return the token vectors of an index by its model; None, with a warning, if they cannot be used.

    With `options`, None if these do not use late interaction.
    """
    if model is None or (options is not None and not uses_late_interaction(options)):
        return None
    return open_or_warn("late interaction is skipped", lambda: TokenReranker.open(token_folder(index), model.encoder))


def token_encoders(model: FineTunedEmbedding, index: Path | None) -> list[TokenEncoder]:
    """Return the encoders that may have made the token vectors of a server's collection, the preferred one first.

    They are that of the token vectors in a run's index, since the run was evaluated with its projection; the model with
    the projection that was trained with it; and the model without one.

    Raises:
        ModelError: if the trained projection cannot be used.
    """
    found = []
    if index is not None and token_folder(index).is_dir():
        with contextlib.suppress(AceFinetuneError):  # of another model, or damaged: the server's may be usable
            found.append(TokenReranker.open(token_folder(index), model.encoder).encoder)
    folder = model.encoder.folder
    trained = read_trained_projection(folder) if folder else None
    return [*found, *([] if trained is None else [TokenEncoder(model.encoder, trained)]), TokenEncoder(model.encoder)]


def open_server_tokens(
    store: MemoryStore, model: FineTunedEmbedding | None, index: Path | None, options: RetrieverOptions | None = None
) -> TokenReranker | None:
    """Use the token vectors in a server's collection, as `MemoryStore.tokens`.

    A collection without usable ones is searched with those in the `index` of the run, which are stored by text and
    therefore serve it too: they are returned. Without them, a warning is logged and late interaction is skipped.
    """
    if model is None or (options is not None and not uses_late_interaction(options)):
        return None
    try:
        store.use_tokens(token_encoders(model, index))
    except AceFinetuneError as error:
        if index is not None and token_folder(index).is_dir():
            return open_tokens(index, model)
        logger.warning("late interaction is skipped: %s", error)
    return None


def build_tokens(
    store: MemoryStore,
    encoder: Encoder,
    *,
    folder: Path | None = None,
    corpus: Sequence[str] | None = None,
    settings: TokenSettings | None = None,
    encoded: TokenReranker | None = None,
    progress: Progress | None = None,
) -> TokenReranker:
    """Encode the memories of a store for late interaction.

    Args:
        store: of the memories.
        encoder: the model that serves.
        folder: for the token vectors; in memory by default.
        corpus: the texts of which a sample decides the projection; those of the store by default. An evaluation that
            had the same ones gives the same scores.
        settings: how token vectors are stored.
        encoded: token vectors by this model of some texts, by `text_key`, to which the others are added; `corpus` and
            `settings` are those that it was made with.
        progress: called with the number of texts that are done.
    """
    settings = settings or TokenSettings()
    texts = {text_key(text): text for text in (node.get_content(MetadataMode.EMBED) for node in store.nodes())}
    if encoded is not None:
        return _completed(encoded, texts, folder, progress)
    projection = choose_projection(encoder, list(texts.values()) if corpus is None else corpus, settings)
    return TokenReranker.build(
        encoder, list(texts), list(texts.values()), settings=settings, projection=projection, folder=folder,
        progress=progress,
    )  # fmt: skip


def _completed(
    encoded: TokenReranker, texts: Mapping[str, str], folder: Path | None, progress: Progress | None
) -> TokenReranker:
    """Encode the texts that have no token vectors, and write those of all texts, by their keys."""
    missing = [key for key in texts if key not in encoded.store]
    if progress:
        progress(len(texts) - len(missing))
    encoded.upsert(missing, [texts[key] for key in missing], progress=progress)
    encoded.delete([key for key in encoded.store.tokens.ids if key not in texts])
    return encoded if folder is None else TokenReranker(encoded.encoder, encoded.store.save(folder))
