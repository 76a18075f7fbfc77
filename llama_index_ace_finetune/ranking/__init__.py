"""Ranking: BM25, dense top-k and fusion, on arrays of scores and rows."""
