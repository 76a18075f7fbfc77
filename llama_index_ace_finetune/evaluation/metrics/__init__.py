"""Retrieval metrics per query, and the qrels and hits they need."""
