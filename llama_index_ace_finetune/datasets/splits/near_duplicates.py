"""Near-duplicate short texts: pairs with almost the same words.

An exact set-similarity join in sparse arithmetic, rather than MinHash: it misses no pair above the threshold,
finds none below it, needs no hash seeds (a split must not depend on a library's version), and the prefix filter
(Chaudhuri, Ganti & Kaushik 2006; Bayardo, Ma & Srikant 2007) leaves few candidates to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

MIN_WORDS = 4
"""Below this many distinct words one word is most of the meaning, so only equal word sets count as near-duplicates."""

_CANDIDATES_PER_CHUNK = 4_000_000
_PAIRS_PER_BLOCK = 200_000
_ROUNDING = 1e-9
_EDGES = "\"'`“”‘’.,;:!?()[]{}<>"
# Scripts written without spaces are cut into pairs of characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


def words(text: str) -> frozenset[str]:
    """Return the distinct words of a normalised text, without the punctuation around them.

    A text of only punctuation is one word.
    """
    found = {word for word in (part.strip(_EDGES) for part in text.split()) if word}
    if not text.isascii():
        for word in [w for w in found if _UNSPACED.search(w)]:
            found.discard(word)
            found.update(_pieces(word))
    return frozenset(found or text.split())


def near_duplicate_pairs(texts: Sequence[str], threshold: float) -> Iterator[NDArray[np.int64]]:
    """Yield chunks [n, 2] of pairs i < j of texts whose word sets have a Jaccard similarity >= `threshold`.

    `texts` are normalised. Texts with fewer than `MIN_WORDS` words pair only with an equal word set. Of texts with an
    equal word set only neighbours are paired, and others are compared through the first of them: enough to
    connect them, without the n^2 pairs of a text that occurs n times.
    """
    first_of_set: dict[frozenset[str], int] = {}
    last_of_set: dict[frozenset[str], int] = {}
    equal: list[tuple[int, int]] = []
    for row, text in enumerate(texts):
        key = words(text)
        if not key:
            continue
        if key in last_of_set:
            equal.append((last_of_set[key], row))
        first_of_set.setdefault(key, row)
        last_of_set[key] = row
    if equal:
        yield np.asarray(equal, dtype=np.int64)
    if threshold < 1.0:
        long = [(key, row) for key, row in first_of_set.items() if len(key) >= MIN_WORDS]
        rows = np.asarray([row for _, row in long], dtype=np.int64)
        for pairs in _join([key for key, _ in long], threshold):
            yield rows[pairs]


def _pieces(word: str) -> Iterator[str]:
    position = 0
    for match in _UNSPACED.finditer(word):
        if match.start() > position:
            yield word[position : match.start()]
        run = match.group()
        yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))
        position = match.end()
    if position < len(word):
        yield word[position:]


def _join(sets: Sequence[frozenset[str]], threshold: float) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of positions of distinct sets with a weighted Jaccard similarity >= threshold."""
    matrix = _weighted(sets)
    if matrix.shape[0] < 2:
        return
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    prefix = _prefixes(matrix, totals, threshold)
    for left, right in _candidates(prefix):
        small, large = np.minimum(totals[left], totals[right]), np.maximum(totals[left], totals[right])
        possible = small >= threshold * large - _ROUNDING
        left, right = left[possible], right[possible]
        shared = _shared_weight(matrix, left, right)
        near = shared >= threshold * (totals[left] + totals[right] - shared) - _ROUNDING
        if near.any():
            yield np.stack([left[near], right[near]], axis=1)


def _weighted(sets: Sequence[frozenset[str]]) -> sparse.csr_matrix:
    """Return the sets as rows of word weights ln(1 + n / df), columns (and so every row) rarest word first."""
    count: dict[str, int] = {}
    for key in sets:
        for word in key:
            count[word] = count.get(word, 0) + 1
    vocabulary = sorted(count, key=lambda word: (count[word], word))
    number = {word: i for i, word in enumerate(vocabulary)}
    weights = np.log1p(len(sets) / np.asarray([count[word] for word in vocabulary], dtype=np.float64))
    indptr = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([len(key) for key in sets], out=indptr[1:])
    columns = np.fromiter((number[word] for key in sets for word in key), dtype=np.int32, count=int(indptr[-1]))
    matrix = sparse.csr_matrix((weights[columns], columns, indptr), shape=(len(sets), len(vocabulary)))
    matrix.sort_indices()
    return matrix


def _prefixes(matrix: sparse.csr_matrix, totals: NDArray[np.float64], threshold: float) -> sparse.csr_matrix:
    """Return the rarest words of each row, as ones: a row within the threshold of another shares one of them.

    Near rows share at least `threshold` of each one's weight, so the first word they share comes before less than
    that is left.
    """
    lengths = np.diff(matrix.indptr)
    before = np.cumsum(matrix.data) - matrix.data
    before -= np.repeat(before[matrix.indptr[:-1]], lengths)
    left = np.repeat(totals, lengths) - before
    kept = left >= threshold * np.repeat(totals, lengths) - _ROUNDING
    indptr = np.concatenate([[0], np.cumsum(np.add.reduceat(kept, matrix.indptr[:-1], dtype=np.int64))])
    columns = matrix.indices[kept]
    return sparse.csr_matrix((np.ones(len(columns), dtype=np.int32), columns, indptr), shape=matrix.shape)


def _candidates(prefix: sparse.csr_matrix) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (rows, later rows) that share a word, a bounded number at a time."""
    postings = prefix.T.tocsr()
    work = np.cumsum(np.add.reduceat(np.diff(postings.indptr)[prefix.indices], prefix.indptr[:-1], dtype=np.int64))
    start, rows = 0, prefix.shape[0]
    while start < rows:
        done = work[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(work, done + _CANDIDATES_PER_CHUNK, side="right")))
        shared = (prefix[start:stop] @ postings).tocoo()
        left, right = shared.row.astype(np.int64) + start, shared.col.astype(np.int64)
        once = left < right
        yield left[once], right[once]
        start = stop


def _shared_weight(matrix: sparse.csr_matrix, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of the words that the two rows of each pair share, [pairs]."""
    shared = np.zeros(len(left), dtype=np.float64)
    for start in range(0, len(left), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        shared[block] = np.asarray(matrix[left[block]].minimum(matrix[right[block]]).sum(axis=1)).ravel()
    return shared
