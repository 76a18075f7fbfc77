"""Conversion of an index of the package rank-bm25."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from rank_bm25 import BM25L, BM25Okapi, BM25Plus

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.bm25_weights import BM25Settings, inverse_document_frequencies
from llama_index_ace_finetune.ranking.postings import Postings

_SETTINGS: Final[dict[type, tuple[Literal["okapi", "l", "plus"], tuple[str, ...]]]] = {
    BM25Okapi: ("okapi", ("k1", "b", "epsilon")),
    BM25L: ("l", ("k1", "b", "delta")),
    BM25Plus: ("plus", ("k1", "b", "delta")),
}


@dataclass(frozen=True)
class RankBM25:
    """Contents of a rank-bm25 index: term counts, vocabulary and parameters."""

    postings: Postings
    vocabulary: dict[str, int]
    settings: BM25Settings

    @classmethod
    def read(cls, bm25: Any) -> RankBM25:
        """Read the counts and parameters of a `BM25Okapi`, `BM25L` or `BM25Plus`.

        Raises:
            AceFinetuneError: if it is another object, terms are not strings, parameters are out of range, or its
                statistics do not match its documents.
        """
        if type(bm25) not in _SETTINGS:
            raise AceFinetuneError(
                f"A {type(bm25).__name__} cannot be converted; give a BM25Okapi, BM25L or BM25Plus of rank-bm25."
            )
        variant, names = _SETTINGS[type(bm25)]
        settings = BM25Settings(variant=variant, **{name: getattr(bm25, name) for name in names})
        vocabulary: dict[str, int] = {}
        for document in bm25.doc_freqs:
            for term in document:
                if not isinstance(term, str):
                    raise AceFinetuneError(
                        f"The rank-bm25 index holds the term {term!r:.80}; its terms must be strings."
                    )
                vocabulary.setdefault(term, len(vocabulary))
        numbers = np.fromiter((vocabulary[term] for counts in bm25.doc_freqs for term in counts), np.int32)
        counts = np.fromiter((count for counts in bm25.doc_freqs for count in counts.values()), np.int64)
        lengths = np.fromiter((sum(counts.values()) for counts in bm25.doc_freqs), np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        postings = Postings.from_terms(np.repeat(numbers, counts), offsets, len(vocabulary))
        idf = inverse_document_frequencies(postings, settings)
        theirs = np.array([bm25.idf.get(term, np.nan) for term in vocabulary])
        same_documents = bm25.corpus_size == len(lengths) and list(bm25.doc_len) == lengths.tolist()
        if not same_documents or not np.allclose(idf, theirs, rtol=1e-6, atol=1e-9):
            raise AceFinetuneError(
                "The statistics of the rank-bm25 index do not match its documents, so its scores cannot be kept; "
                "build it again, or build a BM25Index from the texts."
            )
        return cls(postings, vocabulary, settings)
