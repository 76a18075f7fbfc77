"""FilterCache: the ids of the points that match a filter, by Qdrant's rules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.local.json_path_parser import parse_json_path
from qdrant_client.local.payload_filters import calculate_payload_mask

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.write_log import exclusive_access

_CACHE_SIZE = 64


class FilterCache:
    """Caches which points of an embedded collection match a filter, until something is written.

    Embedded Qdrant evaluates a filter point by point, which takes seconds for 100,000 points. A condition on the
    payload depends only on the values of its keys, so each distinct combination of values is evaluated once, with
    Qdrant's own functions: in a tenth of the time if many points share few values, in the same time if all values
    differ. Other filters are evaluated by Qdrant.
    """

    def __init__(self, client: QdrantClient, collection: str, location: str) -> None:
        self._client, self._collection, self._location = client, collection, location
        self._cache: OrderedDict[str, tuple[int, frozenset[PointKey]]] = OrderedDict()

    def matching_ids(self, query_filter: models.Filter, revision: int) -> frozenset[PointKey]:
        """Return the ids of the matching points; `revision` identifies the state of the collection."""
        key = repr(query_filter)  # in JSON, infinity and None would be the same
        cached = self._cache.get(key)
        if cached is None or cached[0] != revision:
            with exclusive_access(self._client):
                cached = self._cache[key] = (revision, call_qdrant(self._location, self._evaluate, query_filter))
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return cached[1]

    def _evaluate(self, query_filter: models.Filter) -> frozenset[PointKey]:
        collection: Any = getattr(self._client._client, "collections", {}).get(self._collection)
        named, rest = _split(query_filter)
        keys = _keys(rest)
        if keys is None or not all(hasattr(collection, name) for name in ("payload", "ids", "deleted")):
            points = read_points(
                self._client, self._collection, self._location, query_filter=query_filter, with_payload=False
            )
            return frozenset(key_of(point.id) for point in points)
        groups: dict[str, list[PointKey]] = {}
        samples = []
        for identifier, row in list(collection.ids.items()):
            if collection.deleted[row] or (named is not None and key_of(identifier) not in named):
                continue
            values = {key: collection.payload[row][key] for key in keys if key in collection.payload[row]}
            group = groups.setdefault(repr(values), [])
            if not group:
                samples.append(values)
            group.append(identifier)
        passes = calculate_payload_mask(
            payloads=samples, payload_filter=rest, ids_inv=[0] * len(samples), deleted_per_vector={}
        )
        matching = (group for group, passed in zip(groups.values(), passes, strict=True) if passed)
        return frozenset(key_of(identifier) for group in matching for identifier in group)


def _split(query_filter: models.Filter) -> tuple[frozenset[PointKey] | None, models.Filter]:
    """Return the ids in a filter's `has_id` conditions (None without any), and the filter without these."""
    must = _as_list(query_filter.must)
    named = [frozenset(map(key_of, one.has_id)) for one in must if isinstance(one, models.HasIdCondition)]
    rest = [one for one in must if not isinstance(one, models.HasIdCondition)]
    return (frozenset.intersection(*named) if named else None), query_filter.model_copy(update={"must": rest})


def _keys(query_filter: models.Filter) -> list[str] | None:
    """Return the top-level payload keys that a filter uses, sorted; None if it uses more than payloads."""
    found: set[str] = set()
    for condition in _conditions(query_filter):
        if isinstance(condition, models.FieldCondition):
            path = condition.key
        elif isinstance(condition, models.IsEmptyCondition):
            path = condition.is_empty.key
        elif isinstance(condition, models.IsNullCondition):
            path = condition.is_null.key
        else:
            return None
        found.add(str(parse_json_path(path)[0].key))
    return sorted(found)


def _conditions(query_filter: models.Filter) -> Iterator[Any]:
    """Yield the conditions of a filter and of its nested filters."""
    if query_filter.min_should is not None:
        yield query_filter.min_should
    for clause in (query_filter.must, query_filter.should, query_filter.must_not):
        for condition in _as_list(clause):
            if isinstance(condition, models.Filter):
                yield from _conditions(condition)
            else:
                yield condition


def _as_list(clause: Any) -> list[Any]:
    if clause is None:
        return []
    return clause if isinstance(clause, list) else [clause]
