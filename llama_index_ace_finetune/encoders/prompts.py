"""Query and document prompts of a model, shared by mining, training, evaluation and serving."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prefixes of queries and documents; empty if the model was trained without."""

    query: str = ""
    document: str = ""


_BGE = Prompts(query="Represent this sentence for searching relevant passages: ")
# Published prompts of model families, whose checkpoints do not all save them.
_FAMILIES: tuple[tuple[str, Prompts], ...] = (
    (r"(^|[/-])(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?$", Prompts("query: ", "passage: ")),
    (r"(^|/)bge-(small|base|large)-en(-v1\.5)?$", _BGE),
    (r"(^|/)bge-(small|base|large)-zh(-v1\.5)?$", Prompts(query="为这个句子生成表示以用于检索相关文章：")),
    (r"(^|/)nomic-embed-text-v[\d.]+$", Prompts("search_query: ", "search_document: ")),
    (r"(^|/)mxbai-embed-(large|xsmall)-v1$", _BGE),
    (r"(^|/)snowflake-arctic-embed-(xs|s|m|l|m-long)$", _BGE),
    (r"(^|/)snowflake-arctic-embed-(m-v1\.5)$", _BGE),
    (r"(^|/)snowflake-arctic-embed-[ml]-v2\.0$", Prompts(query="query: ")),
)
_DOCUMENT_NAMES = ("document", "passage", "corpus")


def resolve_prompts(model_name: str, saved: Mapping[str, str]) -> Prompts:
    """Return the prompts of a model: those saved in its checkpoint, else the published ones of its family.

    Args:
        model_name: hub name or folder; only its last part identifies the family.
        saved: the `prompts` of the checkpoint's `config_sentence_transformers.json`.
    """
    document = next((saved[name] for name in _DOCUMENT_NAMES if saved.get(name)), "")
    if saved.get("query") or document:
        return Prompts(query=saved.get("query", ""), document=document)
    name = model_name.rstrip("/\\").replace("\\", "/").lower()
    return next((prompts for pattern, prompts in _FAMILIES if re.search(pattern, name)), Prompts())
