"""Swap the retriever of an existing query engine.

    ace-finetune demo --out demo-run
    python examples/rag_query_engine.py demo-run

Without a run folder the base model is used, and the only change is the fusion with BM25. Each response is printed with
its sources and the model that found them.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine

from llama_index_ace_finetune import (
    FineTunedEmbedding,
    FineTunedHybridRetriever,
    RetrievedMemory,
    memory_nodes,
    read_dataset,
)

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"
QUESTIONS = (
    "users logged out every hour",
    "where has my test environment gone after the weekend?",
    "push notification shows up twice",
)


def main() -> None:
    """Ask the same questions before and after the swap."""
    parser = argparse.ArgumentParser(description="Ask a query engine before and after its retriever is swapped.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    options = parser.parse_args()

    llm = MockLLM()  # Repeats its prompt; put your own LLM here.
    nodes = memory_nodes(read_dataset(PLAYBOOK).memories.values())

    # The existing application: a vector index over the base model's vectors.
    index = VectorStoreIndex(nodes, embed_model=FineTunedEmbedding(BASE))
    before = RetrieverQueryEngine.from_args(index.as_retriever(similarity_top_k=3), llm=llm)

    if options.run is None:
        print("no run folder given: using the base model")

    # The swap. A run folder holds an index, so nothing is embedded again.
    if options.run:
        retriever = FineTunedHybridRetriever.from_run(options.run, similarity_top_k=3)
    else:
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=3)
    after = RetrieverQueryEngine.from_args(retriever, llm=llm)

    for question in QUESTIONS:
        print(f"\n{question}")
        show("before", before, question)
        show("after", after, question)
    print(f"\nserved: {dict(retriever.served)}")
    retriever.close()


def show(title: str, engine: RetrieverQueryEngine, question: str) -> None:
    """Print an answer and its sources."""
    response = engine.query(question)
    print(f"  {title}: {textwrap.shorten(str(response), 100)}")
    for source in response.source_nodes:
        print(f"    [{source.score:.3f}] {textwrap.shorten(source.text, 90)}")
        if isinstance(source, RetrievedMemory):
            print(f"            served by {source.served_by}, dense {source.dense_rank}, BM25 {source.sparse_rank}")


if __name__ == "__main__":
    main()
