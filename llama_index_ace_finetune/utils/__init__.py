"""Leaf helpers that know nothing of retrieval: they import nothing of the package but its errors."""
