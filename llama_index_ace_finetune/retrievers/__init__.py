"""Hybrid retrieval as a LlamaIndex retriever."""
