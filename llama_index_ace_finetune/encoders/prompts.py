"""Query and document prompts of a model, shared by mining, training, evaluation and serving."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_ace_finetune.encoders.model_files import read_model_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prefixes of queries and documents; empty if the model was trained without."""

    query: str = ""
    document: str = ""


_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_BGE = Prompts(query="Represent this sentence for searching relevant passages: ")
# Published prompts of model families, whose checkpoints do not all save them.
_FAMILIES: tuple[tuple[str, Prompts], ...] = (
    (r"(^|[/-])(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?$", Prompts("query: ", "passage: ")),
    (r"(^|/)bge-(small|base|large)-en(-v1\.5)?$", _BGE),
    (r"(^|/)bge-(small|base|large)-zh(-v1\.5)?$", Prompts(query="为这个句子生成表示以用于检索相关文章：")),
    (r"(^|/)multilingual-e5-large-instruct$", Prompts(query=f"{_INSTRUCT} ")),
    (r"(^|/)e5-mistral-7b-instruct$", Prompts(query=f"{_INSTRUCT} ")),
    (r"(^|/)gte-qwen2-[\d.]+b-instruct$", Prompts(query=f"{_INSTRUCT} ")),
    (r"(^|/)qwen3-embedding-[\d.]+b$", Prompts(query=_INSTRUCT)),
    (r"(^|/)embeddinggemma-300m$", Prompts("task: search result | query: ", "title: none | text: ")),
    (r"(^|/)nomic-embed-text-v[\d.]+(-moe)?$", Prompts("search_query: ", "search_document: ")),
    (r"(^|/)modernbert-embed-(base|large)$", Prompts("search_query: ", "search_document: ")),
    (r"(^|/)mxbai-embed-(large|xsmall)-v1$", _BGE),
    (r"(^|/)snowflake-arctic-embed-(xs|s|m|l|m-long)$", _BGE),
    (r"(^|/)snowflake-arctic-embed-(m-v1\.5)$", _BGE),
    (r"(^|/)snowflake-arctic-embed-[ml]-v2\.0$", Prompts(query="query: ")),
)
# Families that were trained without prompts.
_WITHOUT = re.compile(
    r"(^|/)(all-(minilm|mpnet|distilroberta)|multi-qa-|paraphrase-|msmarco-|gte-(tiny|small|base|large|multilingual|"
    r"modernbert)|bge-m3|static-|potion-|granite-embedding|jina-embeddings-v2)[\w.-]*$"
)
# Model types, in config.json, that one family of embedding models has.
_ARCHITECTURES = {"nomic_bert": "nomic-embed-text-v1.5", "gemma3_text": "embeddinggemma-300m"}
_MAX_CARD = 2**20
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
    return family_prompts(model_name) or Prompts()


def family_prompts(model_name: str) -> Prompts | None:
    """Return the published prompts of the family that a name belongs to; None for an unknown family."""
    name = model_name.rstrip("/\\").replace("\\", "/").lower()
    found = next((prompts for pattern, prompts in _FAMILIES if re.search(pattern, name)), None)
    return Prompts() if found is None and _WITHOUT.search(name) else found


def published_name(folder: Path) -> str | None:
    """Return the name under which the model in a folder was published; None if nothing in the folder says it.

    It is read from the folder's place in a hub cache, `_name_or_path` in config.json, the title or the `model-index`
    of the model card, and the model type in config.json, and has to be of a known family.
    """
    names = [part.removeprefix("models--").replace("--", "/") for part in folder.parts if part.startswith("models--")]
    config = read_model_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if isinstance(config, dict):
        names.append(str(config.get("_name_or_path") or ""))
    names += _names_in_card(folder / "README.md")
    if isinstance(config, dict):
        names.append(_ARCHITECTURES.get(str(config.get("model_type")), ""))
    return next((name for name in names if name and family_prompts(name) is not None), None)


def apply_prompts(model: SentenceTransformer, prompts: Prompts) -> None:
    """Set the prompts of the model under the names that `encode_query` and `encode_document` use."""
    kept = {name: text for name, text in model.prompts.items() if name not in {"query", "document"}}
    model.prompts = {**kept, "query": prompts.query, "document": prompts.document}


def _names_in_card(card: Path) -> list[str]:
    if not card.is_file():
        return []
    with card.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(_MAX_CARD)
    titles = re.findall(r"^#\s+([\w./-]+)\s*$", text, re.MULTILINE)
    return [*re.findall(r"^model-index:\s*\n-\s*name:\s*([\w./-]+)", text, re.MULTILINE), *titles]
