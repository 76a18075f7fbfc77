"""Keep an index in step with changing memories and models: refresh, delete, filter, switch and roll back.

    python examples/living_index.py [RUN]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model with a prompt serves as the new
version.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index_ace_finetune import (
    FineTunedEmbedding,
    FineTunedHybridRetriever,
    MemoryStore,
    RunFolder,
    build_index,
    build_version,
    publish,
    refresh_documents,
    rollback,
)

BASE = "sentence-transformers/all-MiniLM-L6-v2"


def note(name: str, text: str, *, document: str, team: str) -> TextNode:
    """Make a node that belongs to a document."""
    node = TextNode(id_=name, text=text, metadata={"team": team}, excluded_embed_metadata_keys=["team"])
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return node


def main() -> None:
    """Build, refresh, filter, delete, then serve a new model and go back."""
    parser = argparse.ArgumentParser(description="Keep an index in step with memories and models.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    options = parser.parse_args()
    base = FineTunedEmbedding(BASE)
    if options.run:
        new = FineTunedEmbedding(RunFolder.open(options.run).model)
    else:
        new = FineTunedEmbedding(BASE, text_prompt="note: ")

    notes = [
        note("backup", "Nightly backups go to the cold bucket.", document="runbook", team="platform"),
        note("drill", "Restore drills run on the first Monday.", document="runbook", team="platform"),
        note("retry", "Retry payment calls with an idempotency key.", document="payments", team="checkout"),
    ]
    store = build_index(notes, finetuned=base.encoder, baseline=None, collection="notes.v1")
    publish(store.client, "notes", "notes.v1")
    retriever = FineTunedHybridRetriever(store, embed_model=base, similarity_top_k=2)
    show("built", retriever)

    # The nodes of a document are replaced by its present ones; only changed nodes are embedded.
    changed = [notes[0], note("drill", "Restore drills run every Friday.", document="runbook", team="platform")]
    print(f"\nwritten and deleted: {refresh_documents(store, changed, {'finetuned': base.encoder})}")
    show("refreshed", retriever)
    only = MetadataFilters(filters=[MetadataFilter(key="team", value="checkout")])
    show("filtered", retriever, filters=only)
    store.delete_documents(["payments"])
    show("without payments", retriever)

    # A new model's vectors are built in a new collection. The alias switches in one step, and back.
    version = build_version(store, finetuned=new.encoder, baseline=None)
    publish(store.client, "notes", version.collection)
    served = MemoryStore.attach(store.client, "notes")
    show(f"by {served.collection}", FineTunedHybridRetriever(served, embed_model=new, similarity_top_k=2))
    print(f"\nrolled back to {rollback(store.client, 'notes')}")
    retriever.close()


def show(title: str, retriever: FineTunedHybridRetriever, **settings: object) -> None:
    """Print the hits for one question."""
    print(f"\n{title}")
    for hit in retriever.search("when do we practise restoring?", **settings):
        print(f"  [{hit.score:.3f}] {textwrap.shorten(hit.text, 80)}")


if __name__ == "__main__":
    main()
