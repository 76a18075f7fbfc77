"""Token vectors of texts and their MaxSim similarity, to re-rank candidates.

Knows encoders, token vectors and the folder that stores them; knows no retriever, fusion, evaluation or Qdrant.
"""
