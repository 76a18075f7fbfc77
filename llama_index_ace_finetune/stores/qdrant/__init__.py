"""Qdrant: connections, collections, points, filters."""
