"""Base models on this machine, found without the network."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llama_index_ace_finetune.encoders.checkpoints import (
    DEFAULT_BASE_MODEL,
    cached_checkpoint,
    cached_names,
    resolve_checkpoint,
)
from llama_index_ace_finetune.encoders.fingerprint import EXPORT_RECORD
from llama_index_ace_finetune.encoders.model_files import MODEL_FILE, check_module_classes, read_model_json
from llama_index_ace_finetune.encoders.provenance import PROVENANCE
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.safetensors_header import read_safetensors_header

logger = logging.getLogger(__name__)

MAX_BASES: Final = 8
MAX_PARAMETERS: Final = 150_000_000
UNUSABLE: Final = "it cannot be loaded without code of its own, or its files are incomplete or damaged"

_OTHER_MODULES: Final = (".sparse_encoder.", ".cross_encoder.")


@dataclass(frozen=True, slots=True)
class SkippedBase:
    """A model that is not compared with others, and why: the end of a sentence."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class LocalBases:
    """Models on this machine that a training can start from, the default first, then by size; and all others."""

    names: tuple[str, ...]
    skipped: tuple[SkippedBase, ...]


def find_local_bases() -> LocalBases:
    """Find base models in the hub cache and in the package of the default model, without network or loading.

    Taken are dense sentence-transformers models with at most `MAX_PARAMETERS` weights that this package did not tune;
    of more than `MAX_BASES`, the default and the smallest. The default is a candidate wherever it is on this machine.
    """
    sizes: dict[str, int] = {}
    skipped: list[SkippedBase] = []
    for name in dict.fromkeys((DEFAULT_BASE_MODEL, *cached_names())):
        why, size = _examined(name)
        if why is None:
            sizes[name] = size
        else:
            skipped.append(SkippedBase(name, why))
    ordered = sorted(sizes, key=lambda name: (name != DEFAULT_BASE_MODEL, sizes[name], name))
    too_many = f"{MAX_BASES} models at most are compared, the smallest; to compare it, name it"
    skipped.extend(SkippedBase(name, too_many) for name in ordered[MAX_BASES:])
    return LocalBases(tuple(ordered[:MAX_BASES]), tuple(skipped))


def _examined(name: str) -> tuple[str | None, int]:
    """Return why a model cannot be a candidate, None if it can; and how many weights it has."""
    try:
        if name == DEFAULT_BASE_MODEL:
            folder = resolve_checkpoint(name, allow_download=False)
        else:
            folder = cached_checkpoint(name)
        size = _parameters(folder)
        return _unsuitable(folder, size), size
    except ModelError as error:
        if name == DEFAULT_BASE_MODEL and name not in cached_names():
            return "the default model is not on this machine, and nothing is downloaded for the comparison", 0
        logger.debug("%s", error)
        return UNUSABLE, 0


def _unsuitable(folder: Path, size: int) -> str | None:
    if (folder / PROVENANCE).is_file():
        return "this package tuned it, so it may have seen the dev queries"
    if not (folder / "modules.json").is_file():
        return "it is not an embedding model of sentence-transformers (no modules.json)"
    check_module_classes(folder)
    modules = read_model_json(folder / "modules.json")
    if any(other in module["type"] for module in modules for other in _OTHER_MODULES) or _kind(folder) is not None:
        return "its vectors are not dense, or it is a re-ranker"
    if size > MAX_PARAMETERS:
        return f"it has {size:,} parameters, more than {MAX_PARAMETERS:,}; to compare it, name it"
    return None


def _kind(folder: Path) -> object:
    """What a configuration says that the model is, None for an embedding model."""
    file = folder / "config_sentence_transformers.json"
    config = read_model_json(file) if file.is_file() else None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return None if kind == "SentenceTransformer" else kind


def _parameters(folder: Path) -> int:
    """Number of weights, by the headers of the files; those of exports are left out."""
    files = (file for file in folder.rglob("*.safetensors") if not (file.parent / EXPORT_RECORD).is_file())
    return sum(math.prod(entry.shape) for file in files for entry in read_safetensors_header(file, MODEL_FILE).values())
