"""Leak-free train, dev and test splits."""
