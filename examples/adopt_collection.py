"""Adopt a Qdrant collection that LlamaIndex filled, in place; LlamaIndex can still use it.

    python examples/adopt_collection.py [RUN] [--url http://localhost:6333 --collection notes]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used. With `--url` the vectors of
both models are added to an existing collection; without it, a collection is first filled in memory, as an application
would have done.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever, RunFolder

BASE = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = {
    "backups": "Nightly backups go to the cold bucket; a restore from it takes four hours.",
    "payments": "Retry payment calls with an idempotency key, or a customer is charged twice.",
    "sessions": "Sessions end after thirty idle minutes. Background polling must not reset the timer.",
    "flags": "Remove a feature flag within two weeks after its rollout has reached everybody.",
}
QUESTION = "customer was charged twice"


def main() -> None:
    """Search the collection, adopt it, and search it again, with the adopted retriever and with LlamaIndex."""
    parser = argparse.ArgumentParser(description="Adopt a Qdrant collection that LlamaIndex filled.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    parser.add_argument("--url", help="server that holds the collection; QDRANT_API_KEY is its key")
    parser.add_argument("--collection", default="notes", help="name of the collection")
    parser.add_argument("--query", default=QUESTION, help="what to search for")
    options = parser.parse_args()
    model = RunFolder.open(options.run).model if options.run else BASE
    base = FineTunedEmbedding(BASE)  # the model that the application embeds with today

    client = QdrantClient(options.url or ":memory:", api_key=os.environ.get("QDRANT_API_KEY") or None)
    store = QdrantVectorStore(client=client, collection_name=options.collection)
    if not options.url:
        documents = [Document(id_=name, text=text) for name, text in NOTES.items()]
        context = StorageContext.from_defaults(vector_store=store)
        VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=base)
    index = VectorStoreIndex.from_vector_store(store, embed_model=base)
    show("LlamaIndex", index.as_retriever(similarity_top_k=2), options.query)

    retriever = FineTunedHybridRetriever.from_vector_store(store, model=model, similarity_top_k=2)
    show("adopted", retriever, options.query)

    # The application's own index still works, for reading and writing.
    show("LlamaIndex, after", index.as_retriever(similarity_top_k=2), options.query)
    if not options.url:
        index.insert(Document(id_="refunds", text="A customer who was charged twice is refunded within a day."))
        retriever = FineTunedHybridRetriever.from_vector_store(store, model=model, similarity_top_k=2)
        show("adopted, with what LlamaIndex wrote since", retriever, options.query)
    print(f"\nserved: {dict(retriever.served)}")


def show(title: str, retriever: BaseRetriever, query: str) -> None:
    """Print what is found."""
    print(f"\n{title}")
    for hit in retriever.retrieve(query):
        print(f"  [{hit.score:.3f}] {hit.node.ref_doc_id}: {textwrap.shorten(hit.text, 80)}")


if __name__ == "__main__":
    main()
