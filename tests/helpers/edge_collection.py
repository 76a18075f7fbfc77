"""A collection of the small Qdrant server in `edge_server`: shards of Qdrant's own engine, as in a cluster."""

from __future__ import annotations

import itertools
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from pydantic import TypeAdapter
from qdrant_client import models

_DISTANCES = {
    models.Distance.COSINE: edge.Distance.Cosine,
    models.Distance.DOT: edge.Distance.Dot,
    models.Distance.EUCLID: edge.Distance.Euclid,
    models.Distance.MANHATTAN: edge.Distance.Manhattan,
}
_INDEXES = {kind.lower(): getattr(edge.PayloadSchemaType, kind) for kind in
            ("Keyword", "Integer", "Float", "Bool", "Text", "Datetime", "Uuid")}  # fmt: skip
_MATCHES: dict[type, Callable[[Any], Any]] = {
    models.MatchValue: lambda match: edge.MatchValue(match.value),
    models.MatchAny: lambda match: edge.MatchAny(match.any),
    models.MatchExcept: lambda match: edge.MatchExcept(match.except_),
    models.MatchText: lambda match: edge.MatchText(match.text),
    **({models.MatchSubstring: lambda match: edge.MatchSubstring(match.substring)}
       if hasattr(models, "MatchSubstring") else {}),
}  # fmt: skip


class Refusal(Exception):
    """An error response of the server."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class EdgeCollection:
    """Points in `shard_number` shards by a hash of their ids; each shard counts its own document frequencies."""

    def __init__(self, config: models.CreateCollection, folder: Path) -> None:
        self.lock = threading.RLock()
        self.indexes: dict[str, str] = {}
        strict = config.strict_mode_config
        self._refuses = strict is not None and strict.enabled and strict.unindexed_filtering_retrieve is False
        given = config.vectors or {}
        dense: Any = {name: _dense(one) for name, one in given.items()} if isinstance(given, dict) else _dense(given)
        sparse = {name: edge.EdgeSparseVectorParams(modifier=_modifier(one)) for name, one in
                  (config.sparse_vectors or {}).items()}  # fmt: skip
        if not dense and not sparse:  # the engine needs one; the server does not
            dense = {"_none": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
        self._quantised = isinstance(given, dict) and any(one.quantization_config for one in given.values())
        self._shards = []
        for number in range(config.shard_number or 1):
            (folder / str(number)).mkdir(parents=True)
            settings = edge.EdgeConfig(
                vectors=dense or None,
                sparse_vectors=sparse or None,
                wal_enabled=False,
                # Vectors are quantised when they are indexed.
                optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1) if self._quantised else None,
            )
            self._shards.append(edge.EdgeShard.create(str(folder / str(number)), settings))

    @property
    def shard_number(self) -> int:
        return len(self._shards)

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    # --------------------------------------------------------------------------------------------------- writing

    def upsert(self, body: dict[str, Any]) -> None:
        points = _batch(body) if "batch" in body else TypeAdapter(models.PointsList).validate_python(body).points
        for shard, part in self._by_shard(points, lambda point: point.id):
            made = [edge.Point(_engine_id(one.id), _vector(one.vector), one.payload or {}) for one in part]
            shard.update(edge.UpdateOperation.upsert_points(made))

    def update_vectors(self, body: dict[str, Any]) -> None:
        points = models.UpdateVectors.model_validate(body).points
        for shard, part in self._by_shard(points, lambda point: point.id):
            made = [edge.PointVectors(_engine_id(one.id), _vector(one.vector)) for one in part]
            shard.update(edge.UpdateOperation.update_vectors(made))

    def change(self, body: dict[str, Any], of_ids: Callable[[Any], Any], of_filter: Callable[[Any], Any]) -> None:
        """Apply an operation to the points that a selector lists, or to those that pass its filter."""
        if body.get("points") is not None:
            for shard, part in self._by_shard(body["points"]):
                shard.update(of_ids([_engine_id(one) for one in part]))
        elif body.get("filter") is not None:
            condition = self._condition(models.Filter.model_validate(body["filter"]))
            for shard in self._shards:
                shard.update(of_filter(condition))
        else:
            raise Refusal(400, "Format error in JSON body: data did not match any variant of PointsSelector")

    def on_each_shard(self, operation: Any) -> None:
        for shard in self._shards:
            shard.update(operation)

    def create_index(self, body: dict[str, Any]) -> None:
        schema = body.get("field_schema") or "keyword"
        kind = schema if isinstance(schema, str) else schema["type"]
        self.on_each_shard(edge.UpdateOperation.create_field_index(body["field_name"], _INDEXES[kind]))
        self.indexes[body["field_name"]] = kind

    def create_vector(self, name: str, body: dict[str, Any]) -> models.VectorNameConfig:
        config = TypeAdapter(models.VectorNameConfig).validate_python(body)
        if isinstance(config, models.DenseVectorNameConfig):
            distance = _DISTANCES[config.dense.distance]
            self.on_each_shard(edge.UpdateOperation.create_dense_vector(name, config.dense.size, distance))
        else:
            self.on_each_shard(edge.UpdateOperation.create_sparse_vector(name, _modifier(config.sparse)))
        return config

    # --------------------------------------------------------------------------------------------------- reading

    def count(self, body: dict[str, Any] | None = None) -> int:
        condition = self._condition(models.CountRequest.model_validate(body or {}).filter)
        return sum(shard.count(edge.CountRequest(exact=True, filter=condition)) for shard in self._shards)

    def retrieve(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        asked = models.PointRequest.model_validate(body)
        found = {}
        for shard, part in self._by_shard(asked.ids):
            for record in shard.retrieve([_engine_id(one) for one in part], True, asked.with_vector or False):
                found[_order(record.id)] = _record(record, asked.with_payload)
        return [found[_order(one)] for one in asked.ids if _order(one) in found]

    def scroll(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = models.ScrollRequest.model_validate(body)
        limit = asked.limit or 10
        request = edge.ScrollRequest(
            offset=None if asked.offset is None else _engine_id(asked.offset),
            limit=limit + 1,
            filter=self._condition(asked.filter),
            with_payload=True,
            with_vector=asked.with_vector or False,
        )
        rows = sorted((row for shard in self._shards for row in shard.scroll(request)[0]), key=lambda r: _order(r.id))
        points = [_record(row, asked.with_payload) for row in rows[:limit]]
        return {"points": points, "next_page_offset": _plain_id(rows[limit].id) if len(rows) > limit else None}

    def query(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = models.QueryRequest.model_validate(body)
        vector = asked.query.nearest if isinstance(asked.query, models.NearestQuery) else asked.query
        if asked.prefetch or not isinstance(vector, (list, models.SparseVector)):
            raise Refusal(400, "This server answers nearest-vector queries without prefetch only")
        offset, limit = asked.offset or 0, asked.limit or 10
        for shard in self._shards if self._quantised else ():
            shard.optimize()
        request = edge.QueryRequest(
            limit=offset + limit,
            query=edge.Query.Nearest(_vector(vector), using=asked.using),
            filter=self._condition(asked.filter),
            score_threshold=asked.score_threshold,
            with_payload=True,
            with_vector=asked.with_vector or False,
            params=_params(asked.params),
        )
        rows = sorted((row for shard in self._shards for row in shard.query(request)), key=lambda row: -row.score)
        found = [_record(row, asked.with_payload or False) for row in rows[offset : offset + limit]]
        scores = ({"version": row.version, "score": row.score} for row in rows[offset : offset + limit])
        return {"points": [{**record, **score} for record, score in zip(found, scores, strict=True)]}

    # ------------------------------------------------------------------------------------------------- internals

    def _by_shard(self, items: Iterable[Any], id_of: Callable[[Any], Any] = lambda item: item) -> Iterator[Any]:
        def number(item: Any) -> int:
            return zlib.crc32(repr(_order(id_of(item))).encode()) % len(self._shards)

        for place, part in itertools.groupby(sorted(items, key=number), key=number):
            yield self._shards[place], list(part)

    def _condition(self, given: models.Filter | None) -> edge.Filter | None:
        if given is None:
            return None
        if self._refuses:
            for field in _fields(given):
                kinds = _index_kinds(field)
                if self.indexes.get(field.key) not in kinds:
                    raise Refusal(
                        400,
                        f'Bad request: Index required but not found for "{field.key}" of one of the following types: '
                        f"[{', '.join(kinds)}]. Help: Create an index for this key or use a different filter.",
                    )
        return _filter(given)


def _dense(config: Any) -> Any:
    multi = config.multivector_config and edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    half = config.datatype == models.Datatype.FLOAT16
    return edge.EdgeVectorParams(
        size=config.size,
        distance=_DISTANCES[config.distance],
        multivector_config=multi,
        datatype=edge.VectorStorageDatatype.Float16 if half else None,
        quantization_config=_quantization(config.quantization_config),
    )


def _quantization(config: Any) -> Any:
    if isinstance(config, models.BinaryQuantization):
        return edge.BinaryQuantizationConfig(always_ram=config.binary.always_ram)
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, scalar.quantile, scalar.always_ram)
    return None


def _params(given: models.SearchParams | None) -> Any:
    if given is None or given.quantization is None:
        return None
    asked = given.quantization
    return edge.SearchParams(
        quantization=edge.QuantizationSearchParams(rescore=asked.rescore, oversampling=asked.oversampling)
    )


def _modifier(config: Any) -> Any:
    return edge.Modifier.Idf if config.modifier == models.Modifier.IDF else None


def _batch(body: dict[str, Any]) -> list[models.PointStruct]:
    batch = TypeAdapter(models.PointsBatch).validate_python(body).batch
    payloads = batch.payloads or [None] * len(batch.ids)
    if isinstance(batch.vectors, dict):
        rows: Iterable[Any] = (dict(zip(batch.vectors, row, strict=True)) for row in
                               zip(*batch.vectors.values(), strict=True))  # fmt: skip
    else:
        rows = batch.vectors
    return [models.PointStruct(id=one, vector=row, payload=payload)
            for one, row, payload in zip(batch.ids, rows, payloads, strict=True)]  # fmt: skip


def _order(identifier: Any) -> tuple[int, int]:
    return (0, identifier) if isinstance(identifier, int) else (1, uuid.UUID(str(identifier)).int)


def _engine_id(identifier: Any) -> int | uuid.UUID:
    return identifier if isinstance(identifier, int) else uuid.UUID(str(identifier))


def _plain_id(identifier: Any) -> int | str:
    return identifier if isinstance(identifier, int) else str(identifier)


def _vector(value: Any) -> Any:
    if isinstance(value, models.SparseVector):
        return edge.SparseVector(indices=value.indices, values=value.values)
    return {name: _vector(one) for name, one in value.items()} if isinstance(value, dict) else value


def _plain_vector(value: Any) -> Any:
    if isinstance(value, dict):
        plain = {name: _plain_vector(one) for name, one in value.items()}
        return plain[""] if set(plain) == {""} else plain
    if hasattr(value, "indices"):
        return {"indices": list(value.indices), "values": list(value.values)}
    return None if value is None else list(value)


def _record(found: Any, wanted: Any) -> dict[str, Any]:
    payload, keys = found.payload or {}, wanted
    if wanted is False:
        payload = None
    elif wanted not in (None, True):
        keys = wanted if isinstance(wanted, list) else getattr(wanted, "include", None)
        left_out = () if keys is not None else wanted.exclude
        payload = {key: value for key, value in payload.items() if (key in keys if keys else key not in left_out)}
    return {"id": _plain_id(found.id), "payload": payload, "vector": _plain_vector(found.vector)}


def _filter(given: models.Filter) -> edge.Filter:
    least = given.min_should
    return edge.Filter(
        must=_clause(given.must),
        should=_clause(given.should),
        must_not=_clause(given.must_not),
        min_should=edge.MinShould([_engine_condition(one) for one in least.conditions], least.min_count)
        if least
        else None,
    )


def _clause(clause: Any) -> list[Any] | None:
    return None if clause is None else [_engine_condition(one) for one in _listed(clause)]


def _listed(clause: Any) -> list[Any]:
    return clause if isinstance(clause, list) else [] if clause is None else [clause]


def _engine_condition(given: Any) -> Any:
    if isinstance(given, models.Filter):
        return _filter(given)
    if isinstance(given, models.HasIdCondition):
        return edge.HasIdCondition({_engine_id(one) for one in given.has_id})
    if isinstance(given, models.HasVectorCondition):
        return edge.HasVectorCondition(given.has_vector)
    if isinstance(given, models.IsEmptyCondition):
        return edge.IsEmptyCondition(given.is_empty.key)
    if isinstance(given, models.IsNullCondition):
        return edge.IsNullCondition(given.is_null.key)
    if isinstance(given, models.FieldCondition):
        match = None if given.match is None else _MATCHES[type(given.match)](given.match)
        return edge.FieldCondition(given.key, match=match, range=_range(given.range))
    raise Refusal(400, f"This server has no {type(given).__name__}")


def _range(given: Any) -> Any:
    if given is None:
        return None
    bounds = {name: getattr(given, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(given, models.DatetimeRange):
        return edge.RangeDateTime(**{name: one.isoformat() if one else None for name, one in bounds.items()})
    return edge.RangeFloat(**bounds)


def _fields(given: models.Filter) -> Iterator[models.FieldCondition]:
    for one in (*_listed(given.must), *_listed(given.should), *_listed(given.must_not)):
        if isinstance(one, models.Filter):
            yield from _fields(one)
        elif isinstance(one, models.FieldCondition):
            yield one


def _index_kinds(field: models.FieldCondition) -> tuple[str, ...]:
    """Which payload indexes can answer a condition."""
    match = field.match
    if match is None:
        return ("datetime",) if isinstance(field.range, models.DatetimeRange) else ("integer", "float")
    if isinstance(match, models.MatchText):
        return ("text",)
    values = [getattr(match, name) for name in ("value", "any", "except_") if hasattr(match, name)]
    first = values[0][0] if values and isinstance(values[0], list) and values[0] else values[0] if values else ""
    if isinstance(first, bool):
        return ("bool",)
    return ("integer",) if isinstance(first, int) else ("keyword", "uuid")
