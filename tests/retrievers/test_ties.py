"""Equal scores are ordered by id, whatever the order of writing: a changed store equals one built from its content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers.small_stores import node
from helpers.words_embedding import tuned_and_base, words_retriever
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.stores.memory_store import BASELINE, FINETUNED

TEXTS = ("red", "red paint", "paint red", "red red paint", "blue paint", "blue")
NAMES = tuple(f"n{number}" for number in range(12))
STEP = st.tuples(st.sampled_from(NAMES), st.sampled_from((None, *TEXTS)))  # None deletes


def write(retriever: FineTunedHybridRetriever, nodes: Sequence[BaseNode]) -> None:
    texts = [one.get_content(MetadataMode.EMBED) for one in nodes]
    models = zip((FINETUNED, BASELINE), tuned_and_base(), strict=True)
    vectors = {name: np.array([model.vector(text) for text in texts], np.float32) for name, model in models}
    retriever.store.upsert(nodes, vectors)


def found(retriever: FineTunedHybridRetriever, mode: str) -> list[tuple[str, float]]:
    hits = retriever.search("red paint", mode=mode, similarity_top_k=3, dense_top_k=3, sparse_top_k=3)
    return [(hit.node.node_id, hit.score) for hit in hits]


@pytest.mark.parametrize("options", [{}, {"sparse": "server"}])
@pytest.mark.parametrize("ivf", [False, True])
@settings(max_examples=10)
@given(steps=st.lists(STEP, min_size=1, max_size=25))
def test_changed_store_equals_a_new_one(options: dict[str, str], ivf: bool, steps: list) -> None:
    first = dict.fromkeys(reversed(NAMES), "red paint")
    live = words_retriever([node(name, text) for name, text in first.items()], **options)
    if ivf:
        live.store.exact_up_to = 2
    found(live, "hybrid")
    for name, text in steps:
        if text is None:
            live.store.delete([name])
            first.pop(name, None)
        else:
            write(live, [node(name, text)])
            first[name] = text
        found(live, "hybrid")
    if not options:  # the mean length of stored BM25 vectors is fixed when the store is built
        fresh = words_retriever([node(name, text) for name, text in sorted(first.items())], **options)
        for mode in ("sparse", "dense", "hybrid"):
            assert found(live, mode) == found(fresh, mode)
    again = live.search("red paint", mode="sparse", similarity_top_k=12)
    assert [hit.node.node_id for hit in again] == [
        hit.node.node_id for hit in sorted(again, key=lambda hit: (-hit.score, hit.node.node_id))
    ]
    assert found(live, "sparse") == [(hit.node.node_id, hit.score) for hit in again][:3]


def test_bm25_ties_are_ordered_by_id_after_a_rewrite() -> None:
    nodes = [node(f"n{number:02}", "same words here") for number in range(30)]
    retriever = words_retriever(nodes, mode="sparse", similarity_top_k=5)
    before = [hit.node.node_id for hit in retriever.retrieve("same words")]
    write(retriever, nodes[:1])
    assert [hit.node.node_id for hit in retriever.retrieve("same words")] == before == [f"n0{n}" for n in range(5)]
