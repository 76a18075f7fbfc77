"""load_encoder: load a model with the fastest available backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.record import ExportRecord, exports_of
from llama_index_ace_finetune.encoders.exports.runtime import ExportBackend, MissingRuntimeError
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "torch", "onnx", "openvino"]


def load_encoder(name: str | Path, *, settings: EncoderSettings | None = None, backend: Backend = "auto") -> Encoder:
    """Load a model by folder or hub name.

    With "auto" on the CPU, an export in the model folder is used if there is one (of several the one with the lowest
    recorded latency); if it cannot be used, this is logged and torch is used.

    Raises:
        ModelError: if the model cannot be found or is incomplete; if a backend is named and its export is missing,
            corrupt, made from other weights, or its package is not installed.
    """
    if backend not in get_args(Backend):
        raise ModelError(f"The backend is {backend!r}; it must be auto, torch, onnx or openvino.")
    if backend in ("onnx", "openvino"):
        return ExportedEncoder.open(name, backend, settings=settings)
    elsewhere = settings is not None and settings.device not in (None, "cpu")
    if backend == "auto" and not elsewhere:
        with opening(name):
            candidates = _fastest_first(resolve_checkpoint(name))
        for candidate in candidates:
            try:
                return ExportedEncoder.open(name, candidate, settings=settings)
            except MissingRuntimeError as error:
                logger.info("the %s export is skipped: %s", candidate, error)
            except ModelError as error:
                logger.warning("the %s export is not used, falling back to torch: %s", candidate, error)
    return Encoder.load(name, settings=settings)


def _fastest_first(model: Path) -> list[ExportBackend]:
    def milliseconds(backend: ExportBackend) -> float:
        try:
            return (ExportRecord.read(model / backend).query_milliseconds or {}).get("export", float("inf"))
        except ModelError:
            return float("inf")  # opening it reports the error

    return sorted(exports_of(model), key=milliseconds)
