"""Hard negatives from the retrieval that is in use today."""
