"""Memories and their vectors in Qdrant."""
