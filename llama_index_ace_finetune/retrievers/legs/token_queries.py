"""TokenQueries: token vectors of queries, with a cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import QueryBundle
from numpy.typing import NDArray

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_Query = tuple[NDArray[np.float32], NDArray[np.float32]]


class TokenQueries:
    """Encodes queries as the stored token vectors of memories were encoded.

    Args:
        encoder: of the stored token vectors.
    """

    def __init__(self, encoder: TokenEncoder) -> None:
        self.encoder = encoder
        self._queries: OrderedDict[tuple[str, str], _Query] = OrderedDict()
        self._queries_lock = fork_safe_lock()

    def encode(
        self, model: BaseEmbedding, bundles: Sequence[QueryBundle]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]] | None:
        """Return vectors [n, dimension] and token vectors of queries; None if the stored ones are of another model.

        A bundle with several strings has the mean of their vectors, and all of their tokens.
        """
        tokens = self.encoder
        if not isinstance(model, FineTunedEmbedding) or (
            model.document_fingerprint != tokens.encoder.document_fingerprint
        ):
            return None
        strings = [bundle.embedding_strs for bundle in bundles]
        known = self._encoded(model, list(dict.fromkeys(text for texts in strings for text in texts)))
        found = [[known[text] for text in texts] for texts in strings]
        vectors = np.stack([np.mean([vector for vector, _ in each], axis=0) for each in found])
        return vectors.astype(np.float32), [np.concatenate([own for _, own in each]) for each in found]

    def _encoded(self, model: FineTunedEmbedding, texts: Sequence[str]) -> dict[str, _Query]:
        cache, version = self._queries, model.encoder.vector_key("query")
        with self._queries_lock:
            known = {text: cache[version, text] for text in texts if (version, text) in cache}
        missing = [text for text in texts if text not in known]
        if missing:
            vectors, tokens = self.encoder.encode_both(missing, role="query")
            known.update((text, (vectors[place], tokens[place])) for place, text in enumerate(missing))
        with self._queries_lock:
            for text in texts[: model.query_cache_size]:
                cache[version, text] = known[text]
                cache.move_to_end((version, text))
            while len(cache) > model.query_cache_size:
                cache.popitem(last=False)
        return known
