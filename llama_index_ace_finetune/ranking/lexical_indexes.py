"""The index of each lexical leg."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from llama_index_ace_finetune.ranking.bm25 import BM25Index, BM25Settings
from llama_index_ace_finetune.ranking.char_ngrams import CharNgramIndex
from llama_index_ace_finetune.ranking.fusion_settings import Leg
from llama_index_ace_finetune.ranking.postings_index import PostingsIndex
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings

LEXICAL_LEGS: Final[tuple[Leg, ...]] = ("bm25", "bm25_unstemmed", "char_ngrams")
"""Legs that need only the texts."""


def build_lexical_index(leg: Leg, texts: Iterable[str], *, bm25: BM25Settings | None = None) -> PostingsIndex[Any]:
    """Index texts for a leg of `LEXICAL_LEGS`; `bm25` are the settings of both BM25 legs."""
    if leg == "char_ngrams":
        return CharNgramIndex.build(texts)
    settings = TokenizerSettings(stemming=leg != "bm25_unstemmed")
    return BM25Index.build(texts, settings=bm25, tokenizer=Tokenizer(settings))
