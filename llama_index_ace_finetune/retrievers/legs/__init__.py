"""The legs of a hybrid search over a store: each finds memories and scores given ones.

Knows stores and indexes of texts and tokens; knows no fusion, fallback or results.
"""
