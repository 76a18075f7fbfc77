"""SparseIndex: dot products of the sparse vectors that a learned encoder makes of texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.postings_index import Encoded, IndexState, PostingsIndex, require_texts
from llama_index_ace_finetune.utils.fork import fork_safe_lock

_ENTRY: Final = np.dtype([("term", np.int32), ("weight", np.float32)])
_KEPT_QUERIES: Final = 4096


class SparseVectors(Protocol):
    """What makes sparse vectors of texts: CSR rows, float32 [n, dimension]."""

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Return the query vectors of texts."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> csr_array:
        """Return the document vectors of texts."""
        ...


@dataclass(frozen=True)
class _SparseState(IndexState):
    """The postings, whose counts are weights, and whether all of these are above 0."""

    positive: bool

    @classmethod
    def of(cls, postings: Postings) -> _SparseState:
        return cls(postings, bool((postings.counts > 0).all()))


class SparseIndex(PostingsIndex[_SparseState]):
    """Index of sparse document vectors; a score is the dot product of a query vector and a document vector.

    Only documents that share an entry with the query are hits. Vectors of the latest queries are kept, since a query is
    searched and scored by one vector. It takes 8 bytes per entry that is not 0.
    """

    def __init__(self, encoder: SparseVectors, state: _SparseState) -> None:
        """Internal: use `build`."""
        super().__init__(state)
        self.encoder = encoder
        self._queries: OrderedDict[str, dict[int, float]] = OrderedDict()
        self._queries_lock = fork_safe_lock()

    @classmethod
    def build(cls, texts: Iterable[str], encoder: SparseVectors) -> SparseIndex:
        """Encode texts and index them; `texts` may be empty."""
        entries, offsets = _entries(encoder.encode_documents(list(require_texts(texts))))
        return cls(encoder, _SparseState.of(_postings(entries, offsets, encoder.dimension)))

    def search_uncached(self, query: str, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """`search` of a query that is encoded in any case, to measure its time."""
        with self._queries_lock:
            self._queries.pop(query, None)
        return self.search(query, k)

    def _encode(self, texts: Iterable[str]) -> Encoded:
        return _entries(self.encoder.encode_documents(list(require_texts(texts))))

    def _postings(self, encoded: Encoded) -> Postings:
        return _postings(*encoded, self.encoder.dimension)

    def _state_of(self, postings: Postings) -> _SparseState:
        return _SparseState.of(postings)

    def _terms(self, state: _SparseState, query: str | Sequence[str]) -> Mapping[int, float]:
        if not isinstance(query, str):
            raise AceFinetuneError("The query of a sparse encoder is a list; give a text.")
        with self._queries_lock:
            if query in self._queries:
                self._queries.move_to_end(query)
                return self._queries[query]
        vector = self.encoder.encode_queries([query])
        terms = {int(term): float(weight) for term, weight in zip(vector.indices, vector.data, strict=True) if weight}
        with self._queries_lock:
            self._queries[query] = terms
            if len(self._queries) > _KEPT_QUERIES:
                self._queries.popitem(last=False)
        return terms

    def _weights(self, state: _SparseState, postings: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        return state.postings.counts[postings].astype(np.float64)

    def _all_positive(self, state: _SparseState, terms: Mapping[int, float]) -> bool:
        return state.positive and all(weight > 0 for weight in terms.values())


def _entries(vectors: csr_array) -> Encoded:
    """Return the entries of CSR rows that are not 0, and the offset of each row."""
    vectors = csr_array(vectors, dtype=np.float32, copy=True)
    vectors.sum_duplicates()
    vectors.eliminate_zeros()
    entries = np.empty(vectors.nnz, _ENTRY)
    entries["term"], entries["weight"] = vectors.indices, vectors.data
    return entries, vectors.indptr.astype(np.int64)


def _postings(entries: NDArray[np.void], offsets: NDArray[np.int64], dimension: int) -> Postings:
    n_rows = len(offsets) - 1
    by_row = csr_array((entries["weight"], entries["term"], offsets), shape=(n_rows, dimension))
    by_term = by_row.tocsc()
    return Postings(
        starts=by_term.indptr.astype(np.int64),
        rows=by_term.indices.astype(np.int32, copy=False),
        counts=by_term.data,
        lengths=np.diff(offsets).astype(np.int32),
        present=np.ones(n_rows, np.bool_),
    )
