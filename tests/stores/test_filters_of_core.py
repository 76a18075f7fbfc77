"""Filters match the same nodes as LlamaIndex's SimpleVectorStore."""

from __future__ import annotations

from typing import Any

from helpers.small_stores import NAMED_VECTORS, node, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.filters import qdrant_filter

VALUES: dict[str, list[Any]] = {
    "colour": ["red", "red apple", "Red", "apple", ""],
    "size": [-1, 0, 2, 3],
    "ratio": [-0.5, 0.0, 0.25, 1.5],
}
METADATA = st.fixed_dictionaries({}, optional={key: st.sampled_from([*some, None]) for key, some in VALUES.items()})
COMPARE = ["==", "!=", ">", ">=", "<", "<="]
OPERATORS = {"colour": ["==", "!=", "in", "nin", "text_match"]}


@st.composite
def conditions(draw: st.DrawFn) -> MetadataFilter:
    key = draw(st.sampled_from(sorted(VALUES)))
    operators = {"colour": ["==", "!=", "in", "nin", "text_match"]}.get(key, [*COMPARE, "in", "nin"])
    operator = FilterOperator(draw(st.sampled_from(operators)))
    one = st.sampled_from([value for value in VALUES[key] if value != ""])
    value = draw(st.lists(one, max_size=3) if operator.value in ("in", "nin") else one)
    return MetadataFilter(key=key, value=value, operator=operator)


@settings(max_examples=60)
@given(
    nodes=st.lists(METADATA, min_size=1, max_size=6),
    parts=st.lists(conditions(), min_size=1, max_size=3),
    condition=st.sampled_from(list(FilterCondition)),
)
def test_equal_to_simple_vector_store(nodes: list[dict], parts: list, condition: FilterCondition) -> None:
    filters = MetadataFilters(filters=parts, condition=condition)
    passes = build_metadata_filter_fn(lambda name: nodes[int(name)], filters)
    made = [node(str(place), "text", **metadata) for place, metadata in enumerate(nodes)]
    with MemoryStore.create(NAMED_VECTORS) as store:
        store.upsert(made, vectors(len(made)))
        hits = store.search(FINETUNED, vectors(1)[FINETUNED][0].tolist(), 99, query_filter=qdrant_filter(filters))
    assert {name for name, _ in hits} == {one.node_id for one in made if passes(one.node_id)}
