"""Translate LlamaIndex's metadata filters to Qdrant's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import models
from qdrant_client.local.json_path_parser import parse_json_path

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.point_ids import NODE_ID_FIELD, point_id

Filters = MetadataFilters | models.Filter
_PLAIN = re.compile(r'[A-Za-z0-9_.\[\]"-]+')
_INTERNAL = frozenset({"_node_content", "_node_type", NODE_ID_FIELD})


def qdrant_filter(
    filters: Filters | None = None, *, node_ids: Sequence[str] | None = None, doc_ids: Sequence[str] | None = None
) -> models.Filter | None:
    """Return the filter that combines all of these with AND; None without any.

    Operators mean the same as in LlamaIndex's `SimpleVectorStore`, except on lists: there `==` and IN match if an
    element does, `!=` and NIN if no element does, and ANY, ALL and CONTAINS as named. `!=` and NIN match a node without
    the key, other operators do not. TEXT_MATCH matches a substring (with a qdrant-client without such a condition: as
    the server defines it), TEXT_MATCH_INSENSITIVE all words of the value in any case and order, as Qdrant has no
    case-insensitive substring search. `doc_id`, `document_id` and `ref_doc_id` are the id of a node's source document,
    as LlamaIndex writes it.

    Args:
        filters: metadata filters, also nested ones, or a Qdrant filter.
        node_ids: only these nodes; an empty list allows none.
        doc_ids: only nodes of these source documents; an empty list allows none.

    Raises:
        StoreError: for a filter that Qdrant cannot express, naming it.
    """
    conditions: list[Any] = []
    if isinstance(filters, models.Filter):
        conditions.append(filters)
    elif isinstance(filters, MetadataFilters):
        if filters.filters:
            conditions.append(_group(filters))
    elif filters is not None:
        raise StoreError(f"The filters are a {type(filters).__name__}; give MetadataFilters or Qdrant's own Filter.")
    if node_ids is not None:
        conditions.append(models.HasIdCondition(has_id=[point_id(node_id) for node_id in node_ids]))
    if doc_ids is not None:
        conditions.append(models.FieldCondition(key="doc_id", match=models.MatchAny(any=list(doc_ids))))
    return models.Filter(must=conditions) if conditions else None


def _group(group: MetadataFilters) -> models.Filter:
    nested = [part for part in group.filters if not isinstance(part, MetadataFilters) or part.filters]
    conditions = [_group(part) if isinstance(part, MetadataFilters) else _condition(part) for part in nested]
    if group.condition == FilterCondition.OR:
        return models.Filter(should=conditions)
    if group.condition == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def _condition(part: MetadataFilter) -> Any:
    if part.key in _INTERNAL:
        raise StoreError(f"The key {part.key!r} is internal to the index; filter on a key of the metadata.")
    make = _CONDITIONS.get(part.operator or FilterOperator.EQ)
    if make is None:
        raise StoreError(f"Qdrant has no filter {part.operator!r} (on the key {part.key!r}); use another operator.")
    path = payload_path(part.key)
    try:
        _require_sendable(part.key, *(part.value if isinstance(part.value, list) else [part.value]))
        return make(path, part.value)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"Qdrant cannot express the filter {part.key!r} {part.operator.value} {part.value!r:.80}; give a value of "
            "the type that the operator takes."
        ) from error


def payload_path(key: str) -> str:
    """Return a key as Qdrant's JSON path: a key with a space or the like is quoted.

    Raises:
        StoreError: for a key that cannot be written as a path.
    """
    path = key if _PLAIN.fullmatch(key) else f'"{key}"'
    try:
        parse_json_path(path)
    except ValueError as error:
        raise StoreError(
            f"The filter key {key!r:.80} is not a path that Qdrant can read; write it as key or key.key."
        ) from error
    return path


def _require_sendable(*values: Any) -> None:
    """Raise ValueError for values that JSON cannot represent, which a server would reject or misread."""
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("it is NaN or infinite")
        if isinstance(value, str):
            value.encode()


def _match(key: str, match: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=match)


def _equal(key: str, value: Any) -> models.FieldCondition:
    if isinstance(value, float):  # Qdrant matches integers, strings and booleans only
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return _match(key, models.MatchValue(value=value))


def _ranged(bound: str) -> Callable[[str, Any], models.FieldCondition]:
    def condition(key: str, value: Any) -> models.FieldCondition:
        kind: type[Any] = models.DatetimeRange if isinstance(value, str) else models.Range
        return models.FieldCondition(key=key, range=kind(**{bound: value}))

    return condition


def _values(value: Any) -> list[Any]:
    """Return a list; a string is split at commas, as LlamaIndex does."""
    return list(value) if isinstance(value, (list, tuple, set)) else str(value).split(",")


def _any(key: str, value: Any) -> Any:
    values = _values(value)
    if all(isinstance(one, str) for one in values) or all(type(one) is int for one in values):
        return _match(key, models.MatchAny(any=values))
    return models.Filter(should=[_equal(key, one) for one in values])


def _not(condition: Callable[[str, Any], Any]) -> Callable[[str, Any], models.Filter]:
    """Return the negation, which also matches a point without the key."""
    return lambda key, value: models.Filter(must_not=[condition(key, value)])


def _part_of_text(key: str, value: Any) -> models.FieldCondition:
    if hasattr(models, "MatchSubstring"):
        return _match(key, models.MatchSubstring(substring=value))
    return _match(key, models.MatchText(text=value))


def _all(key: str, value: Any) -> models.Filter:
    return models.Filter(must=[_equal(key, element) for element in _values(value)])


_CONDITIONS: dict[FilterOperator, Callable[[str, Any], Any]] = {
    FilterOperator.EQ: _equal,
    FilterOperator.CONTAINS: _equal,
    FilterOperator.NE: _not(_equal),
    FilterOperator.IN: _any,
    FilterOperator.ANY: _any,
    FilterOperator.NIN: _not(_any),
    FilterOperator.ALL: _all,
    FilterOperator.LT: _ranged("lt"),
    FilterOperator.LTE: _ranged("lte"),
    FilterOperator.GT: _ranged("gt"),
    FilterOperator.GTE: _ranged("gte"),
    FilterOperator.TEXT_MATCH: _part_of_text,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda key, value: _match(key, models.MatchText(text=value)),
    FilterOperator.IS_EMPTY: lambda key, _: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
}
