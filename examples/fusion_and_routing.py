"""Combine the retriever with others: in LlamaIndex's fusion, and behind its router.

    python examples/fusion_and_routing.py [RUN]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever, RouterRetriever
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import RetrieverTool

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever, memory_nodes, read_dataset

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"
QUESTION = "push notification shows up twice"


def main() -> None:
    """Query the retriever, then fused with another one, and behind a router."""
    parser = argparse.ArgumentParser(description="Combine the retriever with others.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    options = parser.parse_args()
    if options.run:
        retriever = FineTunedHybridRetriever.from_run(options.run, similarity_top_k=3)
    else:
        nodes = memory_nodes(read_dataset(PLAYBOOK).memories.values())
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=3)
    show("hybrid", retriever)

    # Fusion with any other retriever; here with the dense leg of the same one.
    llm = MockLLM()  # LlamaIndex requires one even if no query is generated.
    fused = QueryFusionRetriever(
        [retriever, retriever.as_retriever(mode="dense")],
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=3,
        llm=llm,
    )
    show("fused", fused)

    # A router that picks a retriever by its description.
    router = RouterRetriever(
        selector=EmbeddingSingleSelector.from_defaults(embed_model=FineTunedEmbedding(BASE)),
        retriever_tools=[
            RetrieverTool.from_defaults(retriever, description="Notifications, logins, builds: what went wrong."),
            RetrieverTool.from_defaults(
                retriever.as_retriever(mode="sparse"), description="Error codes and names of identifiers."
            ),
        ],
        llm=llm,
    )
    show("routed", router)
    print(f"\nserved: {dict(retriever.served)}")
    retriever.close()


def show(title: str, retriever: BaseRetriever) -> None:
    """Print what a retriever finds."""
    print(f"\n{title}")
    for hit in retriever.retrieve(QUESTION):
        print(f"  [{hit.score:.3f}] {textwrap.shorten(hit.text, 90)}")


if __name__ == "__main__":
    main()
