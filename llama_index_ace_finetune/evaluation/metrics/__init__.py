"""Retrieval measures per query, and the qrels and relevant hits that they need."""
