"""Synthetic queries for memories. Knows texts and a language model; must not know training, retrievers or printing."""
