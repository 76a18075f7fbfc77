"""A Qdrant server for tests that answers gRPC, on 127.0.0.1: an embedded Qdrant behind the calls that a store makes.

Messages are those of qdrant-client, which also converts them; `calls` records what was sent.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

_DONE = wire.PointsOperationResponse(result=wire.UpdateResult(operation_id=0, status=wire.UpdateStatus.Completed))


class GrpcServer:
    """The server, as a context manager; `port` is its port."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._qdrant = QdrantClient(":memory:")
        self._grpc = grpc.server(ThreadPoolExecutor(4), interceptors=[_Recorder(self.calls)])
        self.port = self._grpc.add_insecure_port("127.0.0.1:0")
        wire.add_PointsServicer_to_server(_Points(self._qdrant), self._grpc)
        wire.add_CollectionsServicer_to_server(_Collections(self._qdrant), self._grpc)
        wire.add_QdrantServicer_to_server(_Health(), self._grpc)

    def __enter__(self) -> GrpcServer:
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.stop(None)
        self._qdrant.close()

    def sent(self, name: str) -> list[Any]:
        """Return the requests of a method."""
        return [request for method, request in self.calls if method == name]


class _Recorder(grpc.ServerInterceptor):
    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self._calls = calls

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)

        def record(request: Any, context: Any) -> Any:
            self._calls.append((details.method.rpartition("/")[2], request))
            try:
                return handler.unary_unary(request, context)
            except (ValueError, KeyError) as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return grpc.unary_unary_rpc_method_handler(record, handler.request_deserializer, handler.response_serializer)


class _Health(wire.QdrantServicer):
    def HealthCheck(self, request: Any, context: Any) -> Any:
        return wire.HealthCheckReply(title="qdrant", version="1.16.0")


class _Collections(wire.CollectionsServicer):
    def __init__(self, qdrant: QdrantClient) -> None:
        self._qdrant = qdrant

    def Create(self, request: Any, context: Any) -> Any:
        sparse = request.sparse_vectors_config if request.HasField("sparse_vectors_config") else None
        self._qdrant.create_collection(
            request.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(sparse) if sparse else None,
            metadata=GrpcToRest.convert_payload(request.metadata),
        )
        return wire.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:
        metadata = GrpcToRest.convert_payload(request.metadata)
        self._qdrant.update_collection(request.collection_name, metadata=metadata)
        return wire.CollectionOperationResponse(result=True)

    def Get(self, request: Any, context: Any) -> Any:
        info = self._qdrant.get_collection(request.collection_name)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = self._qdrant.collection_exists(request.collection_name)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

    def ListAliases(self, request: Any, context: Any) -> Any:
        aliases = self._qdrant.get_aliases().aliases
        return wire.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(alias) for alias in aliases])


class _Points(wire.PointsServicer):
    def __init__(self, qdrant: QdrantClient) -> None:
        self._qdrant = qdrant

    def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        self._qdrant.upsert(request.collection_name, points)
        return _DONE

    def Delete(self, request: Any, context: Any) -> Any:
        self._qdrant.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return _DONE

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return _DONE

    def Count(self, request: Any, context: Any) -> Any:
        found = self._qdrant.count(request.collection_name)
        return wire.CountResponse(result=RestToGrpc.convert_count_result(found))

    def Get(self, request: Any, context: Any) -> Any:
        found = self._qdrant.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(one) for one in request.ids],
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return wire.GetResponse(result=[_record(record) for record in found])

    def Scroll(self, request: Any, context: Any) -> Any:
        found, following = self._qdrant.scroll(
            request.collection_name,
            GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        reply = wire.ScrollResponse(result=[_record(record) for record in found])
        if following is not None:
            reply.next_page_offset.CopyFrom(RestToGrpc.convert_extended_point_id(following))
        return reply

    def QueryBatch(self, request: Any, context: Any) -> Any:
        queries = [self._query(request.collection_name, one) for one in request.query_points]
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=found) for found in queries])

    def _query(self, collection: str, request: Any) -> list[Any]:
        nearest = GrpcToRest.convert_query(request.query)
        found = self._qdrant.query_points(
            collection,
            nearest.nearest if isinstance(nearest, models.NearestQuery) else nearest,
            using=request.using,
            limit=request.limit,
            query_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
        )
        return [RestToGrpc.convert_scored_point(point) for point in found.points]


def _record(record: models.Record) -> Any:
    return RestToGrpc.convert_record(record.model_copy(update={"payload": record.payload or {}}))
