"""PassingPoints against what Qdrant itself lets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from llama_index_ace_finetune.stores.qdrant import filter_cache as module
from llama_index_ace_finetune.stores.qdrant.filter_cache import PassingPoints

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


@settings(max_examples=40, deadline=None)
@given(payloads=st.lists(PAYLOAD, max_size=8), filters=st.lists(FILTER, min_size=1, max_size=4))
def test_equals_qdrant(payloads: list[dict[str, Any]], filters: list[models.Filter]) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("c", {"v": models.VectorParams(size=1, distance=models.Distance.DOT)})
    points = [models.PointStruct(id=i, vector={"v": [1.0]} if i % 2 else {}, payload=p) for i, p in enumerate(payloads)]
    if points:
        client.upsert("c", points)
        client.delete("c", [3])
    passing = PassingPoints(client, "c", "here")
    for only in filters:
        expected, _ = client.scroll("c", scroll_filter=only, limit=99)
        assert passing.ids(only, 0) == {point.id for point in expected}


@pytest.fixture
def client() -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection("c", {})
    client.upsert("c", [models.PointStruct(id=i, vector={}, payload={"kind": i % 3, "n": i}) for i in range(30)])
    return client


def test_equal_values_are_checked_once(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    real = module.calculate_payload_mask

    def counted(payloads: list[dict], **options: Any) -> Any:
        checked.append(len(payloads))
        return real(payloads=payloads, **options)

    monkeypatch.setattr(module, "calculate_payload_mask", counted)
    passing = PassingPoints(client, "c", "here")
    kind = field("kind", match=models.MatchValue(value=1))
    assert len(passing.ids(models.Filter(must=[kind]), 0)) == 10
    assert passing.ids(models.Filter(must=[kind, models.HasIdCondition(has_id=[1, 2, 4])]), 0) == {1, 4}
    assert passing.ids(models.Filter(must=[kind]), 0) == {*range(1, 30, 3)}  # remembered
    assert checked == [3, 2]


def test_it_is_asked_again_where_the_collection_has_changed(client: QdrantClient) -> None:
    passing = PassingPoints(client, "c", "here")
    only = models.Filter(must=[field("kind", match=models.MatchValue(value=1))])
    assert 1 in passing.ids(only, 0)
    client.delete("c", [1])
    assert 1 not in passing.ids(only, 1)


def test_filters_that_json_writes_alike_are_told_apart(client: QdrantClient) -> None:
    passing = PassingPoints(client, "c", "here")
    above, below = (models.Filter(must=[field("n", range=models.Range(lt=bound))]) for bound in (float("inf"), 0))
    endless = models.Filter(must=[field("n", range=models.Range(lt=float("-inf")))])
    assert [len(passing.ids(only, 0)) for only in (above, below, endless)] == [30, 0, 0]
