"""All kinds of stores return the same results."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_stores import NAMED_VECTORS, MakeStore, node, unit_rows, vectors
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import models

from llama_index_ace_finetune.errors import StoreError
from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.retrievers.legs.lexical_leg import LexicalLeg
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter
from llama_index_ace_finetune.stores.qdrant.sparse_vectors import SparseBM25

QUERY = unit_rows(1, 8, seed=9)[0].tolist()
NODES = [
    node("a", "red apples", tags=["x", "y"], size=1, ratio=0.5, kind="fruit"),
    node("b", "green apples and pears", tags=["y"], size=2, ratio=1.5, kind="fruit", day="2024-05-01T00:00:00Z"),
    node("c", "red paint", tags=[], size=3, kind="paint", day="2025-05-01T00:00:00Z"),
    node("d", "yellow paint for pears", size=4, ratio=0.5, document="doc 1"),
    node("e", "nothing of the kind", kind=None, document="doc 2", **{"größe in cm": 7}),
]


def one(key: str, value: object, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])


def grouped(condition: str, *groups: MetadataFilters) -> MetadataFilters:
    return MetadataFilters(filters=list(groups), condition=FilterCondition(condition))


class TestDense:
    def test_equals_the_cosines_with_ties_by_id(self, make_store: MakeStore) -> None:
        rows = unit_rows(60, 8)
        rows[40] = rows[41] = rows[7]
        store = make_store()
        store.upsert([node(f"n{i:02}") for i in range(60)], {FINETUNED: rows, BASELINE: unit_rows(60, 3)})
        hits = store.search(FINETUNED, QUERY, 60)
        cosines = rows @ np.array(QUERY)
        expected = sorted(range(60), key=lambda row: (-round(float(cosines[row]), 6), row))
        assert [name for name, _ in hits] == [f"n{row:02}" for row in expected]
        assert np.allclose([score for _, score in hits], cosines[expected], atol=1e-5)

    def test_batch_equals_single_searches(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        queries = unit_rows(40, 8, seed=3)
        query_filter = qdrant_filter(one("size", 1, ">"))
        for condition in (None, query_filter):
            batch = store.search_batch(FINETUNED, queries, 3, query_filter=condition)
            for query, hits in zip(queries, batch, strict=True):
                single = store.search(FINETUNED, query.tolist(), 3, query_filter=condition)
                assert [name for name, _ in hits] == [name for name, _ in single]
                assert [s for _, s in hits] == pytest.approx([s for _, s in single], abs=1e-5)
        assert store.search_batch(FINETUNED, np.empty((0, 8), np.float32), 3) == []

    def test_writes_are_found_by_the_next_search(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES[:3], vectors(3))
        store.search(FINETUNED, QUERY, 3)
        axis = np.eye(8, dtype=np.float32)[:1]
        store.upsert([node("new")], {FINETUNED: axis, BASELINE: unit_rows(1, 3)})
        assert store.search(FINETUNED, axis[0].tolist(), 1) == [("new", pytest.approx(1))]
        store.upsert([node("new")], {FINETUNED: -axis, BASELINE: unit_rows(1, 3)})
        assert dict(store.search(FINETUNED, axis[0].tolist(), 9))["new"] == pytest.approx(-1)
        store.delete(["new", "unknown"])
        assert {name for name, _ in store.search(FINETUNED, QUERY, 9)} == {"a", "b", "c"}

    def test_norm_of_the_query_does_not_matter(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        long = [7 * value for value in QUERY]
        assert [n for n, _ in store.search(FINETUNED, long, 5)] == [n for n, _ in store.search(FINETUNED, QUERY, 5)]
        assert store.search(FINETUNED, long, 1)[0][1] == pytest.approx(store.search(FINETUNED, QUERY, 1)[0][1])

    def test_deleted_collection(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        store.search(FINETUNED, QUERY, 1)
        store.client.delete_collection(store.collection)
        with pytest.raises(StoreError, match="cannot be used"):
            store.search(FINETUNED, QUERY, 1)
        store.client.create_collection(store.collection, vectors_config={})

    def test_closed_store(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        store.search(FINETUNED, QUERY, 1)
        store._closed = True
        with pytest.raises(StoreError, match="closed"):
            store.search(FINETUNED, QUERY, 1)
        with pytest.raises(StoreError, match="closed"):
            store.get(["a"])


FILTERS = [
    (one("kind", "fruit"), "ab"),
    (one("size", 3), "c"),
    (one("ratio", 0.5), "ad"),
    (one("tags", "y"), "ab"),
    (one("kind", "fruit", "!="), "cde"),
    (one("size", 2, ">"), "cd"),
    (one("size", 2, ">="), "bcd"),
    (one("size", 2, "<"), "a"),
    (one("size", 2, "<="), "ab"),
    (one("day", "2025-01-01T00:00:00Z", ">"), "c"),
    (one("kind", ["paint", "other"], "in"), "c"),
    (one("kind", "paint,other", "in"), "c"),
    (one("kind", ["paint"], "nin"), "abde"),
    (one("ratio", 0.5, "!="), "bce"),
    (one("ratio", [0.5, 9.5], "in"), "ad"),
    (one("ratio", [0.5, 9.5], "nin"), "bce"),
    (one("tags", "x", "!="), "bcde"),
    (one("tags", ["x", "z"], "nin"), "bcde"),
    (one("size", [1, 2], "in"), "ab"),
    (one("size", [1, 2.0], "nin"), "cde"),
    (one("kind", [], "nin"), "abcde"),
    (one("kind", [], "in"), ""),
    (one("tags", ["x", "z"], "any"), "a"),
    (one("tags", ["x", "y"], "all"), "a"),
    (one("tags", "x", "contains"), "a"),
    (one("kind", "rui", "text_match"), "ab"),
    (one("kind", "RUI", "text_match"), ""),
    (one("kind", None, "is_empty"), "de"),
    (one("tags", None, "is_empty"), "cde"),
    (one("no such key", 1), ""),
    (one("no such key", 1, "!="), "abcde"),
    (one("größe in cm", 7), "e"),
    (one("doc_id", "doc 1"), "d"),
    (grouped("or", one("size", 1), one("size", 4)), "ad"),
    (grouped("not", one("size", 1), one("size", 4)), "bce"),
    (grouped("and", one("kind", "fruit"), grouped("or", one("size", 1), one("size", 3))), "a"),
    (MetadataFilters(filters=[]), "abcde"),
    (models.Filter(must_not=[models.FieldCondition(key="size", match=models.MatchValue(value=2))]), "acde"),
]


class TestFilters:
    @pytest.mark.parametrize(("filters", "expected"), FILTERS)
    def test_both_legs_filter_as_qdrant(self, make_store: MakeStore, filters, expected: str | None) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        query_filter = qdrant_filter(filters)
        matching_ids, _ = store.client.scroll(store.collection, scroll_filter=query_filter, limit=99)
        ids = {point.payload["_node_id"] for point in matching_ids}
        assert expected is None or ids == set(expected)
        for _ in range(2):  # the second time from the cache
            assert {name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=query_filter)} == ids
            every = LexicalLeg(store).search("red apples green pears paint nothing", 9, query_filter=query_filter)
            assert {name for name, _ in every} == ids

    def test_filter_by_node_and_by_document(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))

        def found(**ids: list[str]) -> set[str]:
            return {name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=qdrant_filter(**ids))}

        assert found(node_ids=["a", "d", "unknown"]) == {"a", "d"}
        assert found(doc_ids=["doc 1", "doc 2"]) == {"d", "e"}
        assert found(node_ids=["a", "d"], doc_ids=["doc 1"]) == {"d"}
        assert found(node_ids=[]) == found(doc_ids=[]) == set()

    def test_filter_is_evaluated_again_after_a_write(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        leg, query_filter = LexicalLeg(store), qdrant_filter(one("kind", "fruit"))
        assert [name for name, _ in leg.search("apples", 5, query_filter=query_filter)] == ["a", "b"]
        store.client.set_payload(store.collection, {"kind": "secret"}, points=[point_id("a")])
        left = {name for name, _ in store.search(FINETUNED, QUERY, 9, query_filter=query_filter)}
        assert left == {"b"}
        assert {name for name, _ in leg.search("apples", 5, query_filter=query_filter)} == left

    def test_bm25_finds_matches_behind_many_that_are_filtered_out(self, make_store: MakeStore) -> None:
        store = make_store()
        many = [node(f"n{number:03}", "apple", good=int(number >= 195)) for number in range(200)]
        store.upsert(many, vectors(200))
        hits = LexicalLeg(store).search("apple", 5, query_filter=qdrant_filter(one("good", 1)))
        assert [name for name, _ in hits] == [f"n{number}" for number in range(195, 200)]

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            (one("size", [1, 2]), "cannot express the filter 'size'"),
            (one("kind", 3, "text_match"), "cannot express"),
            (one("size", ["x"], ">"), "cannot express"),
            (one("_node_content", "x"), "internal"),
            ({"size": 1}, "are a dict"),
        ],
    )
    def test_inexpressible_filters_are_refused(self, filters, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            qdrant_filter(filters)


class TestSparse:
    """Qdrant's BM25 vectors against the in-process index."""

    TEXTS = tuple(n.text for n in NODES)

    def test_variant_l_is_the_in_process_score(self, make_store: MakeStore) -> None:
        settings = BM25Settings(variant="l")
        store = make_store(sparse=SparseBM25.of(self.TEXTS, settings=settings))
        store.upsert(NODES, vectors(5))
        index = BM25Index.build(self.TEXTS, settings=settings)
        for query in ("red apples", "paint pears pears", "nothing"):
            rows, scores = index.search(query, 5)
            hits = store.search_sparse(query, 5)
            assert [name for name, _ in hits] == ["abcde"[row] for row in rows]
            assert [score for _, score in hits] == pytest.approx(scores.tolist(), rel=1e-5)

    def test_only_memories_with_shared_words_that_match_the_filter(self, make_store: MakeStore) -> None:
        store = make_store(sparse=SparseBM25.of(self.TEXTS))
        store.upsert(NODES, vectors(5))
        assert store.search_sparse("xylophone", 5) == store.search_sparse("", 5) == store.search_sparse("the", 5) == []
        assert {name for name, _ in store.search_sparse("apples", 5)} == {"a", "b"}
        assert [name for name, _ in store.search_sparse("apples", 5, query_filter=qdrant_filter(one("size", 2)))] == [
            "b"
        ]

    def test_both_legs_at_once(self, make_store: MakeStore) -> None:
        store = make_store(sparse=SparseBM25.of(self.TEXTS))
        store.upsert(NODES, vectors(5))
        for query in ("red pears", "xylophone"):
            dense, words = store.search_both(FINETUNED, QUERY, query, dense_k=3, sparse_k=2)
            assert dense == store.search(FINETUNED, QUERY, 3)
            assert words == store.search_sparse(query, 2)

    def test_tokenizer_settings_are_kept(self, make_store: MakeStore) -> None:
        sparse = SparseBM25.of(self.TEXTS, settings=BM25Settings(k1=1.1))
        store = make_store(sparse=sparse)
        from llama_index_ace_finetune.stores.qdrant.collections import read_metadata

        _, again = read_metadata(store.client, store.collection, store.location)
        assert again is not None
        assert again.to_json() == sparse.to_json()

    def test_store_without_bm25_vectors(self, make_store: MakeStore) -> None:
        with pytest.raises(StoreError, match="holds no BM25 vectors"):
            make_store().search_sparse("apples", 3)

    def test_okapi_is_refused(self) -> None:
        with pytest.raises(StoreError, match="okapi"):
            SparseBM25.of(["a"], settings=BM25Settings(variant="okapi"))


class TestDocuments:
    def test_delete_by_document(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        assert store.delete_documents([]) == []
        assert len(store) == 5
        assert store.delete_documents(["doc 1", "unknown"]) == ["d"]
        assert {found.node_id for found in store.nodes()} == set("abce")

    def test_empty_delete_deletes_nothing(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES, vectors(5))
        store.delete([])
        assert len(store) == 5

    def test_changed_nodes(self, make_store: MakeStore) -> None:
        store = make_store()
        store.upsert(NODES[:3], vectors(3))
        other = node("b", "other text", size=2)
        assert store.changed([NODES[0], other, NODES[2], NODES[3]]) == [1, 3]
        # A point that lacks a vector counts as changed.
        store.upsert([NODES[4]], {FINETUNED: unit_rows(1, 8)})
        assert store.changed([NODES[4]]) == [0]

    def test_two_nodes_with_one_id(self, make_store: MakeStore) -> None:
        with pytest.raises(StoreError, match="Two different nodes have the id 'a'"):
            make_store().upsert([node("a", "one"), node("a", "two")], vectors(2))

    def test_named_vectors_are_those_given(self, make_store: MakeStore) -> None:
        assert make_store().named_vectors == NAMED_VECTORS
