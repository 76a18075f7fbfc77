"""Fingerprint of a model: a hash of its files and settings, independent of its path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

# Marks an export, which is derived from the rest of the model folder and not part of its fingerprint.
EXPORT_RECORD: Final = "ace_finetune_export.json"

# Files that affect vectors; reports, logs and the provenance file do not.
_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model"})
_IGNORED = frozenset({"ace_finetune.json", "trainer_state.json", "data_config.json"})


def fingerprint_folder(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return 32 hex digits over the model's files and the settings that change its vectors.

    Weights, tokenizer, prompts, pooling and normalisation are in the files; overrides (maximum length, prompts) are in
    `settings`. A retrained model in the same folder gets another fingerprint, a copy of a model the same one.
    """
    return fingerprints(folder, settings)[0]


def fingerprints(folder: Path, settings: Mapping[str, Any], *, code: bool = False) -> tuple[str, str]:
    """Return `fingerprint_folder` with these settings and without any, reading the files once.

    With `code`, the first also covers the Python files, which a trusted model runs.
    """
    digest = hashlib.sha256()
    _add_files(digest, folder, _SUFFIXES)
    content = _with(digest, {})
    if code:
        _add_files(digest, folder, frozenset({".py"}))
    return _with(digest, settings), content


def _add_files(digest: hashlib._Hash, folder: Path, suffixes: frozenset[str]) -> None:
    for file in sorted(path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file()):
        relative = file.relative_to(folder)
        if file.name in _IGNORED or relative.parts[0].startswith(".") or (file.parent / EXPORT_RECORD).is_file():
            continue
        digest.update(relative.as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_hash(file)))


def file_hash(file: Path) -> str:
    """Return a file's sha256, cached by size, modification time and inode."""
    state = file.stat()
    return _hash(file, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=256)
def _hash(file: Path, size: int, changed: int, place: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _with(digest: hashlib._Hash, settings: Mapping[str, Any]) -> str:
    digest = digest.copy()
    digest.update(json.dumps(dict(settings), sort_keys=True).encode())
    return digest.hexdigest()[:32]
