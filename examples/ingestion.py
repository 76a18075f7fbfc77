"""Ingest documents with two worker processes, then search what LlamaIndex wrote.

    python examples/ingestion.py [RUN]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used. The pipeline splits and
embeds, and its vector store writes; the retriever adopts the collection and adds the missing vectors.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever, RunFolder

BASE = "sentence-transformers/all-MiniLM-L6-v2"
DOCUMENTS = {
    "backups": "# Where\nNightly backups go to the cold bucket.\n# Drills\nRestore drills run on the first Monday.",
    "payments": "# Retries\nRetry payment calls, or a customer is charged twice.\n# Sandbox\nIt declines 13 cents.",
    "sessions": "Sessions end after thirty idle minutes. Background polling must not reset the timer.",
    "flags": "Remove a feature flag within two weeks after its rollout has reached everybody.",
}


def main() -> None:
    """Ingest, search, replace a document, search again."""
    parser = argparse.ArgumentParser(description="Ingest documents, then search them.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    parser.add_argument("--workers", type=int, default=2, help="processes that split and embed")
    options = parser.parse_args()
    model = RunFolder.open(options.run).model if options.run else BASE

    vector_store = QdrantVectorStore(client=QdrantClient(":memory:"), collection_name="notes")
    pipeline = IngestionPipeline(
        transformations=[MarkdownNodeParser(), FineTunedEmbedding(model)],
        vector_store=vector_store,
    )
    documents = [Document(id_=name, text=text) for name, text in DOCUMENTS.items()]
    nodes = pipeline.run(documents=documents, num_workers=options.workers)
    print(f"{len(nodes)} nodes from {len(documents)} documents")

    retriever = FineTunedHybridRetriever.from_vector_store(vector_store, model=model, similarity_top_k=2)
    show(retriever, "customer was charged twice")

    # Later writes and deletions by LlamaIndex are picked up.
    vector_store.delete("payments")
    show(retriever, "customer was charged twice")
    show(retriever, "where do the backups go?", doc_ids=["backups"])
    retriever.close()


def show(retriever: FineTunedHybridRetriever, question: str, **settings: object) -> None:
    """Print the hits and their documents."""
    print(f"\n{question} {settings or ''}")
    for hit in retriever.search(question, **settings):
        print(f"  [{hit.score:.3f}] {hit.node.ref_doc_id}: {textwrap.shorten(hit.text, 80)}")


if __name__ == "__main__":
    main()
