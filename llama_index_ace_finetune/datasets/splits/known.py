"""Queries about known memories: train queries that are held out although other queries of their memories are not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from llama_index_ace_finetune.datasets.splits.components import query_components
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.types import SYNTHETIC, RetrievalDataset

MIN_KNOWN: Final = 10
"""Fewer queries in a part say nothing, so neither part is made."""
MAX_KNOWN: Final = 100
"""More queries in a part narrow the interval little, and are better used for training."""
KEPT_QUERIES: Final = 2
"""Train queries that every memory keeps."""


def hold_out_known(
    dataset: RetrievalDataset, train: Sequence[str], settings: SplitSettings, *, excluded: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the train queries to hold out for dev and for test as new queries about known memories.

    Near-duplicate queries, and queries with the same value of the group field, are held out together or not at all.
    Every memory keeps two train queries, and gives a second query only after all memories gave one. At most
    `settings.known` of the train queries and 100 per part are held out; with fewer than 10 per part, none are.
    Synthetic queries, and those with the text of a memory, are never held out.

    Args:
        dataset: queries, memories, judgements.
        train: the query ids of the train part.
        settings: of the split.
        excluded: queries that a model may have seen.
    """
    limit = min(int(len(train) * settings.known), 2 * MAX_KNOWN)
    dev: list[str] = []
    test: list[str] = []
    if limit < 2 * MIN_KNOWN:
        return dev, test
    left = Counter(answer for query_id in train for answer in dataset.relevant(query_id))
    given: Counter[str] = Counter()
    waiting = _groups(dataset, sorted(train), settings, frozenset(excluded))
    for most in range(max(left.values(), default=0)):
        later = []
        for group in waiting:
            answers = Counter(answer for query_id in group for answer in dataset.relevant(query_id))
            if len(group) > limit or any(left[answer] - count < KEPT_QUERIES for answer, count in answers.items()):
                continue  # neither number ever rises
            if any(given[answer] > most for answer in answers):
                later.append(group)
                continue
            part = dev if len(dev) < len(test) else test
            part.extend(group)
            left -= answers
            given += answers
            limit -= len(group)
        waiting = later
    return (dev, test) if min(len(dev), len(test)) >= MIN_KNOWN else ([], [])


def _groups(
    dataset: RetrievalDataset, ids: Sequence[str], settings: SplitSettings, excluded: frozenset[str]
) -> list[tuple[str, ...]]:
    """Return the groups of queries that stay together, without those that may not be held out, in a random order."""
    numbers = query_components(
        dataset, ids, threshold=settings.near_duplicate, group_field=settings.group_field, by_answer=False
    )
    groups: dict[int, list[str]] = {}
    for query_id, number in zip(ids, numbers.tolist(), strict=True):
        groups.setdefault(number, []).append(query_id)
    refused = excluded | set(_unfit(dataset, ids))
    return sorted(
        (tuple(group) for group in groups.values() if refused.isdisjoint(group)),
        key=lambda group: hashlib.sha256(
            f"known:{settings.seed}:{group[0]}".encode("utf-8", "surrogatepass")
        ).hexdigest(),
    )


def _unfit(dataset: RetrievalDataset, ids: Sequence[str]) -> Iterator[str]:
    memories = {normalise(memory.text) for memory in dataset.answers.values()}
    for query_id in ids:
        query = dataset.queries[query_id]
        if SYNTHETIC in query.metadata or normalise(query.text) in memories:
            yield query_id
