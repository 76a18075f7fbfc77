"""Check the files of a model folder before any library loads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.encoders.fingerprint import EXPORT_RECORD
from llama_index_ace_finetune.errors import ModelError, quoted
from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file
from llama_index_ace_finetune.utils.read_json import read_json_file
from llama_index_ace_finetune.utils.safetensors_header import TensorEntry, read_safetensors_header

MODEL_FILE: Final = Refusal("The model file", "copy or train the model again", ModelError)

_MAX_FILES: Final = 10_000
_MAX_JSON_BYTES: Final = 128 * 2**20  # tokenizers of large vocabularies reach 40 MB
_MAX_MODULES: Final = 64
_NO_CLASSES: Final = ("tokenizer.json", "vocab.json")
# Each layer has its tensors, except in models that share them between layers, none of which is this deep.
_SHARED_LAYERS: Final = 64
_ENCODER_LAYERS: Final = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers")
_LAYERS: Final = frozenset(
    (*_ENCODER_LAYERS, "decoder_layers", "num_decoder_layers", "num_experts", "num_local_experts")
)
_WIDTHS: Final = frozenset(("hidden_size", "d_model", "n_embd", "dim", "in_features", "out_features"))
_SIZES: Final = frozenset(
    ("vocab_size", "intermediate_size", "d_ff", "type_vocab_size", "hidden_dim", "embedding_size")
)
_POSITIONS: Final = frozenset(("max_position_embeddings", "n_positions"))
_MAX_POSITIONS: Final = 2**20
_POSITION_TENSOR: Final = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)\.weight$")
_LENGTHS: Final = ("max_seq_length", "model_max_length", "max_length")
_LENGTH_FILES: Final = frozenset(("sentence_bert_config.json", "tokenizer_config.json"))

_OWN_CLASS: Final = re.compile(r"sentence_transformers(\.[a-z_]\w*)+\.[A-Z]\w*")
_ACTIVATION: Final = re.compile(r"torch\.nn(\.[a-z_]\w*)*\.[A-Z]\w*")
_ACTIVATION_KEYS: Final = ("activation_function", "activation_fn", "sbert_ce_default_activation_function")


def check_model_files(folder: Path) -> None:
    """Check every file of a model folder by kind, size and header, without loading anything.

    Refused are files that are not regular (pipes, devices, circular links), symbolic links out of the folder (those in
    the hub cache point to its `blobs`), JSON that is damaged or nested too deeply, safetensors headers that do not
    match their files, and configurations with more or wider layers than the weights.

    Raises:
        ModelError: naming the file.
    """
    weights: dict[Path, dict[str, TensorEntry]] = {}
    configs: list[Path] = []
    for file in _files(folder):
        if _is_of_export(file):
            _check_kind(file)
        elif file.suffix == ".safetensors":
            weights.setdefault(file.parent, {}).update(read_safetensors_header(file, MODEL_FILE))
        elif file.suffix == ".json":
            configs.append(file)
        else:
            _check_kind(file)
    for file in configs:
        _check_config(file, read_model_json(file), weights.get(file.parent))


def read_model_json(file: Path) -> Any:
    """Return the JSON value in a model's file; raises ModelError."""
    return read_json_file(file, MODEL_FILE, max_bytes=_MAX_JSON_BYTES)


def check_module_classes(folder: Path) -> None:
    """Refuse a model whose files name classes that are not of sentence-transformers: loading imports and calls them.

    Raises:
        ModelError: naming the file and the class.
    """
    for file in _files(folder):
        if file.suffix == ".json" and file.name not in _NO_CLASSES and not _is_of_export(file):
            content = read_model_json(file)
            if file.name == "modules.json":
                _check_modules(file, content)
            elif isinstance(content, dict):
                _check_classes(file, content)


def _files(folder: Path) -> Iterator[Path]:
    """All files of the folder except hidden ones; links must stay within it."""
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    count = 0
    for above, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(names)]:
            path = folder / Path(above, name).relative_to(root)
            count += 1
            if count > _MAX_FILES:
                raise ModelError(
                    f"The folder {quoted(str(folder), 200)} holds more than {_MAX_FILES:,} files; give the model's own."
                )
            if path.is_symlink():
                _check_link(path, allowed)
            # A folder with the name of a file would be read as that file.
            if not name.startswith(".") and (name in names or path.suffix in (".json", ".safetensors")):
                yield path


def _check_link(path: Path, allowed: list[Path]) -> None:
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(place) for place in allowed):
        raise MODEL_FILE.because(path, "is a symbolic link out of the model's folder")


def _is_of_export(file: Path) -> bool:
    """Whether a file belongs to an export, which has its own record and checksums and can be skipped."""
    return (file.parent / EXPORT_RECORD).exists()


def _check_kind(file: Path) -> None:
    try:
        open_file(file).close()
    except UnusableFileError as error:
        raise MODEL_FILE.because(file, error) from error


def _check_config(file: Path, content: Any, weights: dict[str, TensorEntry] | None) -> None:
    if file.name == "config.json" and not isinstance(content, dict):
        raise MODEL_FILE.because(file, "is corrupt (it holds no JSON object)")
    if not isinstance(content, dict):
        return
    if file.name in _LENGTH_FILES:
        for key in _LENGTHS:
            value = content.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
                raise _contradiction(file, key, value, "a number greater than 0 is needed")
    if weights and file.name.endswith("config.json"):
        _check_sizes(file, content, weights)


def _check_sizes(file: Path, config: dict[str, Any], weights: dict[str, TensorEntry], *, nested: bool = False) -> None:
    """Refuse configurations of a larger model than the weights, which could take minutes or all memory to build."""
    dimensions = {size for entry in weights.values() for size in entry.shape}
    largest = max(dimensions, default=0)
    held = [entry.shape[0] for name, entry in weights.items() if _POSITION_TENSOR.search(name) and entry.shape]
    positions = max(held, default=_MAX_POSITIONS)
    for key, value in config.items():
        if isinstance(value, dict):
            _check_sizes(file, value, weights, nested=True)
        if type(value) is not int:
            continue
        if key in _LAYERS and value > max(_SHARED_LAYERS, len(weights)):
            raise _contradiction(file, key, value, f"the weights have {len(weights)} tensors")
        if key in _WIDTHS and value not in dimensions and not (nested and value <= largest):
            raise _contradiction(file, key, value, "no tensor of the weights is as wide")
        if key in _SIZES and value > largest:
            raise _contradiction(file, key, value, f"the widest tensor of the weights has {largest:,}")
        if key in _POSITIONS and value > positions:
            raise _contradiction(file, key, value, f"at most {positions:,} are possible")


def _contradiction(file: Path, key: str, value: object, why: str) -> ModelError:
    return ModelError(
        f"The model file {quoted(str(file), 240)} has {key}: {quoted(value)}, but {why}; copy or train the model again."
    )


def _check_modules(file: Path, content: Any) -> None:
    if not isinstance(content, list) or len(content) > _MAX_MODULES:
        raise MODEL_FILE.because(file, f"is corrupt (it holds no list of at most {_MAX_MODULES} modules)")
    for module in content:
        path = module.get("path") if isinstance(module, dict) else None
        if not isinstance(path, str) or not isinstance(module.get("type"), str):
            raise MODEL_FILE.because(file, "is corrupt (a module has no path or type)")
        if not path.isprintable():  # a lone surrogate or a NUL character, which no file name contains
            raise MODEL_FILE.because(file, f"names a module that cannot be there ({quoted(path)})")
        inside = Path(os.path.realpath(file.parent / path))
        if not inside.is_relative_to(file.parent.resolve()):
            raise MODEL_FILE.because(file, f"names a module outside of the model's folder ({quoted(path)})")
        _check_class(file, module["type"], _OWN_CLASS)


def _check_classes(file: Path, content: dict[str, Any]) -> None:
    types = content.get("types")
    for name in types.values() if isinstance(types, dict) else ():
        _check_class(file, name, _OWN_CLASS)
    tokenizer = content.get("tokenizer_class")
    if isinstance(tokenizer, str) and "." in tokenizer:
        _check_class(file, tokenizer, _OWN_CLASS)
    nested = content.get("sentence_transformers")
    for part in (content, nested if isinstance(nested, dict) else {}):
        for key in _ACTIVATION_KEYS:
            if isinstance(name := part.get(key), str) and "." in name:
                _check_class(file, name, _ACTIVATION)


def _check_class(file: Path, name: object, known: re.Pattern[str]) -> None:
    if not isinstance(name, str) or not known.fullmatch(name):
        raise ModelError(
            f"The model file {quoted(str(file), 240)} names the class {quoted(name)}, which is not one "
            "of sentence-transformers and could run any code; set trust_remote_code if you trust the model."
        )
