"""FilterCache against Qdrant's own filtering."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.qdrant import filter_cache as module
from llama_index_ace_finetune.stores.qdrant.filter_cache import FilterCache

KEYS = ["a", "b", "a.b", "c[]"]
SCALAR = st.one_of(st.none(), st.booleans(), st.sampled_from([0, 1, 2, 1.0, 0.5, "x", "y", "x y"]))
VALUE = st.one_of(
    SCALAR, st.lists(SCALAR, max_size=2), st.dictionaries(st.sampled_from(["a", "b"]), SCALAR, max_size=2)
)
PAYLOAD = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUE, max_size=3)


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


KEY = st.sampled_from(KEYS)
LEAF = st.one_of(
    st.builds(lambda k, v: field(k, match=models.MatchValue(value=v)), KEY, st.sampled_from([True, 1, 0, "x"])),
    st.builds(lambda k, v: field(k, match=models.MatchAny(any=v)), KEY, st.sampled_from([[1, 2], ["x", "y"]])),
    st.builds(lambda k: field(k, match=models.MatchExcept(**{"except": ["x"]})), KEY),
    st.builds(lambda k: field(k, match=models.MatchText(text="x")), KEY),
    st.builds(lambda k, v: field(k, range=models.Range(gte=v)), KEY, st.sampled_from([0, 0.5, 1])),
    st.builds(lambda k: models.IsEmptyCondition(is_empty=models.PayloadField(key=k)), KEY),
    st.builds(lambda k: models.IsNullCondition(is_null=models.PayloadField(key=k)), KEY),
    st.builds(lambda ids: models.HasIdCondition(has_id=ids), st.lists(st.integers(0, 9), max_size=6)),
    st.just(models.HasVectorCondition(has_vector="v")),
)
CLAUSES = ("must", "should", "must_not")
GROUP = st.builds(
    lambda clause, parts: models.Filter(**{clause: parts}), st.sampled_from(CLAUSES), st.lists(LEAF, max_size=3)
)
FILTER = st.fixed_dictionaries({}, optional={clause: st.lists(LEAF | GROUP, max_size=3) for clause in CLAUSES}).map(
    lambda clauses: models.Filter(**clauses)
)


@settings(max_examples=40)
@given(payloads=st.lists(PAYLOAD, max_size=8), filters=st.lists(FILTER, min_size=1, max_size=4))
def test_equals_qdrant(payloads: list[dict[str, Any]], filters: list[models.Filter]) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("c", {"v": models.VectorParams(size=1, distance=models.Distance.DOT)})
    points = [models.PointStruct(id=i, vector={"v": [1.0]} if i % 2 else {}, payload=p) for i, p in enumerate(payloads)]
    if points:
        client.upsert("c", points)
        client.delete("c", [3])
    cache = FilterCache(client, "c", "here")
    for query_filter in filters:
        expected, _ = client.scroll("c", scroll_filter=query_filter, limit=99)
        assert cache.matching_ids(query_filter, 0) == {point.id for point in expected}


@pytest.fixture
def client() -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection("c", {})
    client.upsert("c", [models.PointStruct(id=i, vector={}, payload={"kind": i % 3, "n": i}) for i in range(30)])
    return client


def test_equal_payloads_are_evaluated_once(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    real = module.calculate_payload_mask

    def counted(payloads: list[dict], **options: Any) -> Any:
        checked.append(len(payloads))
        return real(payloads=payloads, **options)

    monkeypatch.setattr(module, "calculate_payload_mask", counted)
    cache = FilterCache(client, "c", "here")
    kind = field("kind", match=models.MatchValue(value=1))
    assert len(cache.matching_ids(models.Filter(must=[kind]), 0)) == 10
    assert cache.matching_ids(models.Filter(must=[kind, models.HasIdCondition(has_id=[1, 2, 4])]), 0) == {1, 4}
    assert cache.matching_ids(models.Filter(must=[kind]), 0) == {*range(1, 30, 3)}  # from the cache
    assert checked == [3, 2]


def test_filter_is_evaluated_again_after_a_change(client: QdrantClient) -> None:
    cache = FilterCache(client, "c", "here")
    query_filter = models.Filter(must=[field("kind", match=models.MatchValue(value=1))])
    assert 1 in cache.matching_ids(query_filter, 0)
    client.delete("c", [1])
    assert 1 not in cache.matching_ids(query_filter, 1)


def test_filters_that_are_equal_in_json_are_distinguished(client: QdrantClient) -> None:
    cache = FilterCache(client, "c", "here")
    above, below = (models.Filter(must=[field("n", range=models.Range(lt=bound))]) for bound in (float("inf"), 0))
    endless = models.Filter(must=[field("n", range=models.Range(lt=float("-inf")))])
    assert [len(cache.matching_ids(query_filter, 0)) for query_filter in (above, below, endless)] == [30, 0, 0]
