"""Folder, prompts and fingerprints of a model, without loading it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.fingerprint import fingerprints
from llama_index_ace_finetune.encoders.model_files import read_model_json
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.prompts import Prompts, family_prompts, published_name, resolve_prompts
from llama_index_ace_finetune.encoders.provenance import PROVENANCE, read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, quoted

logger = logging.getLogger(__name__)
_TRANSFORMER = "sentence_bert_config.json"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model without its weights.

    Attributes:
        folder: local model folder.
        prompts: the prompts in use.
        fingerprint: of everything that affects its vectors.
        documents: fingerprint of its document vectors: that of the base if training changed only the query encoder.
        content: fingerprint of the files without settings.
    """

    folder: Path
    prompts: Prompts
    fingerprint: str
    documents: str
    content: str


def identify_model(name: str | Path, *, settings: EncoderSettings | None = None) -> ModelIdentity:
    """Resolve a folder or hub name.

    Raises:
        ModelError: if it cannot be found or read, or is incomplete.
    """
    with opening(name):
        return _identify(name, settings or EncoderSettings())


def _identify(name: str | Path, settings: EncoderSettings) -> ModelIdentity:
    folder = resolve_checkpoint(name)
    prompts = _prompts_of(str(name), folder, warn=settings.query_prompt is None and settings.document_prompt is None)
    if settings.query_prompt is not None or settings.document_prompt is not None:
        prompts = Prompts(
            query=prompts.query if settings.query_prompt is None else settings.query_prompt,
            document=prompts.document if settings.document_prompt is None else settings.document_prompt,
        )
    identity = {
        **settings.vector_settings(),
        "max_seq_length": _shorter(settings.max_seq_length, folder),
        "query_prompt": prompts.query,
        "document_prompt": prompts.document,
    }
    fingerprint, content = fingerprints(folder, identity, code=settings.trust_remote_code)
    as_saved = {**EncoderSettings().vector_settings(), "query_prompt": settings.query_prompt, "max_seq_length": None}
    documents = None
    if {**settings.vector_settings(), "max_seq_length": identity["max_seq_length"]} == as_saved:
        documents = _documents_of(folder, content)
    return ModelIdentity(folder, prompts, fingerprint, documents or fingerprint, content)


def _prompts_of(name: str, folder: Path, *, warn: bool) -> Prompts:
    """Return the prompts of a model: saved ones, those of its family by name, else of the published model it is."""
    saved = _saved_prompts(folder)
    if (folder / PROVENANCE).is_file():  # saved by this package, with the prompts it was trained with
        return resolve_prompts(folder.name, saved)
    prompts = resolve_prompts(name, saved)
    if prompts != Prompts() or family_prompts(name) is not None:
        return prompts
    published = published_name(folder)
    if published is not None:
        return resolve_prompts(published, saved)
    if warn:
        _warn_once(name)
    return prompts


@lru_cache(maxsize=64)
def _warn_once(name: str) -> None:
    logger.warning(
        "no prompts are known for the model %s; if it was trained with prompts, give them with --query-prompt and "
        "--document-prompt",
        quoted(name, 200),
    )


def _documents_of(folder: Path, content: str) -> str | None:
    """The recorded fingerprint of the document vectors, if the files are those that training saved."""
    record = read_provenance(folder) or {}
    kept = record.get("document_fingerprint")
    return str(kept) if kept and record.get("fingerprint") == content else None


def _shorter(limit: int | None, folder: Path) -> int | None:
    """The limit if it has an effect, that is, if it is below the limit of the model."""
    if limit is None:
        return None
    own = [_own_limit(file.parent) for file in folder.rglob(_TRANSFORMER)]
    return None if own and all(length is not None and length <= limit for length in own) else limit


def _own_limit(transformer: Path) -> int | None:
    """Token limit of a saved transformer; newer versions of sentence-transformers save it with the tokenizer."""
    for name, key in ((_TRANSFORMER, "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        file = transformer / name
        content = read_model_json(file) if file.is_file() else None
        length = content.get(key) if isinstance(content, dict) else None
        if isinstance(length, int):
            return length
    return None


def _saved_prompts(folder: Path) -> dict[str, str]:
    file = folder / "config_sentence_transformers.json"
    if not file.is_file():
        return {}
    config = read_model_json(file)
    saved = (config.get("prompts") or {}) if isinstance(config, dict) else None
    if not isinstance(saved, dict):
        raise ModelError(
            f"The model file {str(file)!r} does not map prompt names to texts; copy or train the model again."
        )
    return {str(name): text for name, text in saved.items() if isinstance(text, str)}
