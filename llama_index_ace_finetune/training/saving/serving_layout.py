"""The file layout of model folders that serving tools and older sentence-transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_PACKAGE: Final = "sentence_transformers"
_MODULES: Final = frozenset({"Transformer", "Pooling", "Normalize", "Dense", "Router", "StaticEmbedding"})
# In the order in which the older form joins the vectors of several modes.
_POOLING_FLAGS: Final = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# What current versions write for a model of texts; a transformer of anything else keeps its file.
_TEXT_TRANSFORMER: Final = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_NO_LIMIT = 1_000_000  # tokenizers without a limit save a number far above


def use_serving_layout(folder: Path) -> None:
    """Rewrite the configuration files of a saved sentence-transformers model in their older form, vectors unchanged.

    sentence-transformers before 5.4, text-embeddings-inference, vLLM and llama.cpp know modules as
    `sentence_transformers.models.*`, pooling as one flag per mode, and the token limit in `sentence_bert_config.json`.
    The current sentence-transformers reads both forms. What the older form cannot say is left as it is.
    """
    for file in sorted(folder.rglob("*.json")):
        if file.name == "modules.json":
            _rewrite(file, [{**module, "type": _older_name(module["type"])} for module in _read(file)])
        elif file.name == "router_config.json":
            _rewrite(file, _older_router(_read(file)))
        elif file.name == "config.json" and "pooling_mode" in (config := _read(file)):
            _rewrite(file, _older_pooling(config))
        elif file.name == "sentence_bert_config.json" and _read(file) == _TEXT_TRANSFORMER:
            _rewrite(file, {"max_seq_length": _token_limit(file.parent), "do_lower_case": False})


def _older_name(name: str) -> str:
    package, _, module = name.rpartition(".")
    ours = package.split(".")[0] == _PACKAGE and module in _MODULES
    return f"{_PACKAGE}.models.{module}" if ours else name


def _older_router(config: dict[str, Any]) -> dict[str, Any]:
    parameters = {name: value for name, value in config["parameters"].items() if name != "route_mappings" or value}
    types = {module: _older_name(name) for module, name in config["types"].items()}
    return {**config, "types": types, "parameters": parameters}


def _older_pooling(config: dict[str, Any]) -> dict[str, Any]:
    mode = config["pooling_mode"]
    modes = [mode] if isinstance(mode, str) else list(mode)
    if modes != [name for name in _POOLING_FLAGS if name in modes]:
        return config
    flags = {flag: name in modes for name, flag in _POOLING_FLAGS.items()}
    return {
        "word_embedding_dimension": config["embedding_dimension"],
        **flags,
        "include_prompt": config.get("include_prompt", True),
    }


def _token_limit(transformer: Path) -> int | None:
    file = transformer / "tokenizer_config.json"
    limit = _read(file).get("model_max_length") if file.is_file() else None
    return int(limit) if isinstance(limit, int | float) and limit < _NO_LIMIT else None


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _rewrite(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
