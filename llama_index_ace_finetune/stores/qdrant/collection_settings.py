"""CollectionSettings: shards, replicas, disk and quantization of a collection on a Qdrant server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.stores.qdrant.connection import call_qdrant

Quantization = Literal["scalar", "binary"]
_QUANTIZATIONS: Final[dict[type, Quantization]] = {
    models.ScalarQuantization: "scalar",
    models.BinaryQuantization: "binary",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionSettings:
    """How a server stores a collection; None leaves a setting to the server, and an embedded store ignores them.

    Attributes:
        shard_number: parts of the collection, over which a cluster spreads it; one per node by default.
        replication_factor: copies of each shard, on different nodes; with 2, one node may fail.
        write_consistency_factor: copies that have to confirm a write.
        vectors_on_disk: keep the original dense vectors in memory-mapped files instead of memory.
        payload_on_disk: keep texts and metadata on disk.
        quantization: "scalar", a byte per dimension, or "binary", a bit per dimension. Candidates are found by the
            quantised vectors, which stay in memory, and searches re-score them by the original ones.
        options: further arguments of `QdrantClient.create_collection`, such as `hnsw_config`.

    Raises:
        StoreError: for a value out of range.
    """

    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    vectors_on_disk: bool = False
    payload_on_disk: bool | None = None
    quantization: Quantization | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise StoreError for an invalid value."""
        for name in ("shard_number", "replication_factor", "write_consistency_factor"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise StoreError(f"The collection setting {name} is {value!r:.80}; give a whole number from 1.")
        confirmed, copies = self.write_consistency_factor, self.replication_factor or 1
        if confirmed is not None and confirmed > copies:
            raise StoreError(
                f"The collection setting write_consistency_factor is {confirmed}, and there are only {copies} replicas "
                "to confirm a write; raise replication_factor or lower it."
            )
        if self.quantization not in (None, *get_args(Quantization)):
            raise StoreError(
                f"The collection setting quantization is {self.quantization!r:.80}; give one of "
                f"{', '.join(get_args(Quantization))}."
            )

    @classmethod
    def of(cls, given: CollectionOptions | None) -> CollectionSettings:
        """Return settings as they are; those with these arguments of `create_collection`, for a mapping."""
        return given if isinstance(given, CollectionSettings) else cls(options=dict(given or {}))

    @property
    def replicas(self) -> int:
        """Copies of each shard."""
        return int(self.options.get("replication_factor") or self.replication_factor or 1)

    @property
    def dense_options(self) -> dict[str, Any]:
        """The arguments of the `VectorParams` of dense vectors; token vectors stay as they are."""
        given = {
            "on_disk": self.vectors_on_disk or None,
            "quantization_config": _quantization_config(self.quantization),
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def create_options(self) -> dict[str, Any]:
        """The arguments of `QdrantClient.create_collection`, without its vectors."""
        given = {
            "shard_number": self.shard_number,
            "replication_factor": self.replication_factor,
            "write_consistency_factor": self.write_consistency_factor,
            "on_disk_payload": self.payload_on_disk,
            **self.options,
        }
        return {name: value for name, value in given.items() if value is not None}


CollectionOptions = Mapping[str, Any] | CollectionSettings
"""Settings, or arguments of `QdrantClient.create_collection` such as `shard_number` and `replication_factor`."""


def read_settings(client: QdrantClient, collection: str, location: str, vector: str) -> CollectionSettings:
    """Return the settings of an existing collection on a server, to create another one like it.

    Args:
        client: of the collection.
        collection: its name.
        location: as errors name it.
        vector: name of a dense vector, whose settings go for all.
    """
    config = call_qdrant(location, client.get_collection, collection).config
    vectors = config.params.vectors
    dense = vectors.get(vector) if isinstance(vectors, dict) else None
    quantization = _QUANTIZATIONS.get(type(dense.quantization_config)) if dense else None
    kept = {"quantization_config": config.quantization_config, "strict_mode_config": config.strict_mode_config}
    return CollectionSettings(
        shard_number=config.params.shard_number,
        replication_factor=config.params.replication_factor,
        write_consistency_factor=config.params.write_consistency_factor,
        vectors_on_disk=bool(dense and dense.on_disk),
        payload_on_disk=config.params.on_disk_payload,
        quantization=quantization,
        options={name: value for name, value in kept.items() if value is not None},
    )


def require_replicas(client: QdrantClient, settings: CollectionSettings, collection: str, location: str) -> None:
    """Raise StoreError if the server's cluster has fewer nodes than a new collection has replicas.

    The server would create it with fewer replicas, and say nothing.
    """
    if settings.replicas < 2:
        return
    status = call_qdrant(location, client.http.distributed_api.cluster_status).result
    nodes = len(getattr(status, "peers", None) or {}) or 1  # a server that is no cluster reports no peers
    if nodes < settings.replicas:
        raise StoreError(
            f"The collection {collection!r} needs {settings.replicas} nodes for its replicas, and the cluster in "
            f"{location} has {nodes}; add nodes, or lower replication_factor."
        )


def _quantization_config(kind: Quantization | None) -> models.QuantizationConfig | None:
    if kind == "scalar":
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=int8)
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None
