"""Hard-negative mining from the retrieval that is in use today."""
