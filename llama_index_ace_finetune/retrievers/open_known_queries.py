"""Open or build the known queries of an index; ones that cannot be opened are logged, and not used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.retrievers.open_or_warn import open_or_warn
from llama_index_ace_finetune.run_folder import known_query_folder
from llama_index_ace_finetune.stores.known_queries import StoredKnownQueries

logger = logging.getLogger(__name__)


def open_known_queries(
    index: Path, model: BaseEmbedding | None, offset: float | None, weight: int = 0
) -> StoredKnownQueries | None:
    """Return the known queries of a run's index by the model that serves; None, with a warning, if they are unusable.

    None also without an offset and a weight, so that known queries are not used.
    """
    if model is None or (offset is None and not weight):
        return None
    stored = open_or_warn("known queries are not used", lambda: StoredKnownQueries.load(known_query_folder(index)))
    if stored is None:
        return None
    if stored.fingerprint != getattr(model, "fingerprint", None):
        logger.warning("known queries are not used: another model made those in %s; build the index again", index)
        return None
    return stored


def build_known_queries(
    known: KnownQueries,
    texts: Mapping[str, str],
    encoder: Encoder,
    *,
    folder: Path,
    with_texts: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Encode known queries and store them.

    Args:
        known: the queries; those about memories that are not in `texts` are left out.
        texts: of the memories, by id.
        encoder: the model that serves.
        folder: to write to.
        with_texts: store the texts of the queries too, which BM25 needs.
        cache: folder for vectors.
        progress: called with the number of texts just encoded.
    """
    vectors = encoder.in_float32().encode(known.texts, role="query", cache=cache, progress=progress)
    pairs = [(row, texts[one]) for row, answers in enumerate(known.answers) for one in answers if one in texts]
    rows = np.array([row for row, _ in pairs], np.int64)
    memories = tuple(text_hash(text) for _, text in pairs)
    queries = tuple(known.texts[row] for row, _ in pairs) if with_texts else ()
    StoredKnownQueries(encoder.fingerprint, vectors[rows], memories, queries).save(folder)
