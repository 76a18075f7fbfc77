"""Which points pass a filter, as Qdrant decides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.local.json_path_parser import parse_json_path
from qdrant_client.local.payload_filters import calculate_payload_mask

from llama_index_ace_finetune.stores.point_ids import PointKey, key_of
from llama_index_ace_finetune.stores.qdrant.connection import told
from llama_index_ace_finetune.stores.qdrant.points import read_points
from llama_index_ace_finetune.stores.qdrant.write_log import undisturbed

_KEPT = 64


class PassingPoints:
    """The points of an embedded collection that pass a filter, remembered until something is written.

    Qdrant checks a filter point by point, which takes seconds for 100,000. What a condition on the payload says
    depends on the values under its keys alone, so here each distinct combination of them is checked once, by Qdrant's
    own rules: a tenth of the time where few values are shared by many points, the same where every point has its own.
    Filters on anything else are Qdrant's to check.
    """

    def __init__(self, client: QdrantClient, collection: str, where: str) -> None:
        self._client, self._collection, self._where = client, collection, where
        self._known: OrderedDict[str, tuple[int, frozenset[PointKey]]] = OrderedDict()

    def ids(self, only: models.Filter, revision: int) -> frozenset[PointKey]:
        """Return the ids of the points that pass; `revision` names the state of the collection."""
        key = repr(only)  # as JSON, infinity and nothing would be one
        known = self._known.get(key)
        if known is None or known[0] != revision:
            with undisturbed(self._client):
                known = self._known[key] = (revision, told(self._where, self._asked, only))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known[1]

    def _asked(self, only: models.Filter) -> frozenset[PointKey]:
        held: Any = getattr(self._client._client, "collections", {}).get(self._collection)
        named, rest = _split(only)
        keys = _keys(rest)
        if keys is None or not all(hasattr(held, name) for name in ("payload", "ids", "deleted")):
            points = read_points(self._client, self._collection, self._where, only=only, with_payload=False)
            return frozenset(key_of(point.id) for point in points)
        groups: dict[str, list[PointKey]] = {}
        samples = []
        for identifier, row in list(held.ids.items()):
            if held.deleted[row] or (named is not None and key_of(identifier) not in named):
                continue
            values = {key: held.payload[row][key] for key in keys if key in held.payload[row]}
            alike = groups.setdefault(repr(values), [])
            if not alike:
                samples.append(values)
            alike.append(identifier)
        passes = calculate_payload_mask(
            payloads=samples, payload_filter=rest, ids_inv=[0] * len(samples), deleted_per_vector={}
        )
        chosen = (alike for alike, passed in zip(groups.values(), passes, strict=True) if passed)
        return frozenset(key_of(identifier) for alike in chosen for identifier in alike)


def _split(only: models.Filter) -> tuple[frozenset[PointKey] | None, models.Filter]:
    """Return the points that a filter names outright (None for any), and what else it asks of them."""
    must = only.must if isinstance(only.must, list) else [only.must] if only.must is not None else []
    named = [frozenset(map(key_of, one.has_id)) for one in must if isinstance(one, models.HasIdCondition)]
    rest = [one for one in must if not isinstance(one, models.HasIdCondition)]
    return (frozenset.intersection(*named) if named else None), only.model_copy(update={"must": rest})


def _keys(only: models.Filter) -> list[str] | None:
    """Return the top-level keys that a filter reads, in order; None where it reads more than payloads."""
    found: set[str] = set()
    for condition in _conditions(only):
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


def _conditions(only: models.Filter) -> Iterator[Any]:
    """Yield the conditions of a filter and of those inside it."""
    if only.min_should is not None:
        yield only.min_should
    for clause in (only.must, only.should, only.must_not):
        for condition in clause if isinstance(clause, list) else [clause] if clause is not None else []:
            if isinstance(condition, models.Filter):
                yield from _conditions(condition)
            else:
                yield condition
