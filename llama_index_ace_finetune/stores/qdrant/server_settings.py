"""ServerSettings: how requests are sent to a Qdrant server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError

ReadConsistency = Literal["majority", "quorum", "all"]
WriteOrdering = Literal["weak", "medium", "strong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """How requests are sent to a Qdrant server; an embedded store ignores it.

    Attributes:
        timeout: seconds that a request may take.
        prefer_grpc: send requests by gRPC, which is faster for uploads, instead of REST.
        grpc_port: of the server.
        retries: how often a write is sent again if the server is busy, restarts or cannot be reached. The pause before
            it is a quarter of a second and doubles each time, or is the one that the server asks for. Reads are not
            repeated, since a search has a deadline and a fallback.
        batch_size: points per write; one that the server finds too large is sent in halves.
        wait: return from a write when searches find it. Without it writes are faster, an error of the server may come
            too late to be raised, and `build_index` ends by waiting until all points are there.
        read_consistency: the number of replicas, or "majority", "quorum" or "all" of them, whose answers are compared;
            None takes the answer of one.
        write_ordering: "weak", "medium" or "strong" order of concurrent writes; None is the server's default, "weak".
        options: further arguments of `QdrantClient`, such as `verify` with a file of certificates.

    Raises:
        StoreError: for a value out of range.
    """

    timeout: float = 30.0
    prefer_grpc: bool = False
    grpc_port: int = 6334
    retries: int = 3
    batch_size: int = 256
    wait: bool = True
    read_consistency: int | ReadConsistency | None = None
    write_ordering: WriteOrdering | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise StoreError for an invalid value."""
        if not self.timeout > 0:
            raise StoreError(f"The server setting timeout is {self.timeout!r:.80}; give seconds above 0.")
        for name, least in (("retries", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise StoreError(f"The server setting {name} is {value!r:.80}; give a whole number from {least}.")
        consistency, names = self.read_consistency, get_args(ReadConsistency)
        if not (consistency is None or consistency in names or (isinstance(consistency, int) and consistency >= 1)):
            raise StoreError(
                f"The server setting read_consistency is {consistency!r:.80}; give a number of replicas or one of "
                f"{', '.join(names)}."
            )
        if self.write_ordering not in (None, *get_args(WriteOrdering)):
            raise StoreError(
                f"The server setting write_ordering is {self.write_ordering!r:.80}; give one of "
                f"{', '.join(get_args(WriteOrdering))}."
            )

    @classmethod
    def of(cls, given: ClientOptions | None) -> ServerSettings:
        """Return settings as they are; the defaults with these arguments of `QdrantClient`, for a mapping."""
        return given if isinstance(given, ServerSettings) else cls(options=dict(given or {}))

    @property
    def client_options(self) -> dict[str, Any]:
        """The arguments of `QdrantClient`; `check_compatibility` is off, since it only warns, in a thread."""
        return {
            "timeout": self.timeout,
            "prefer_grpc": self.prefer_grpc,
            "grpc_port": self.grpc_port,
            "check_compatibility": False,
            **self.options,
        }

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of a search or another read of points."""
        consistency = self.read_consistency
        if consistency is None:
            return {}
        named = isinstance(consistency, str)
        return {"consistency": models.ReadConsistencyType(consistency) if named else consistency}

    @property
    def writing(self) -> dict[str, Any]:
        """The arguments of a write of points."""
        ordering = {"ordering": models.WriteOrdering(self.write_ordering)} if self.write_ordering else {}
        return {"wait": self.wait, **ordering}


ClientOptions = Mapping[str, Any] | ServerSettings
"""Settings, or arguments of `QdrantClient` such as `prefer_grpc` and `timeout`."""
