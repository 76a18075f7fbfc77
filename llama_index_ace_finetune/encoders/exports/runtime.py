"""Runtimes of exported models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.exports.token_batches import TokenBatch
from llama_index_ace_finetune.errors import ModelError, first_line

ExportBackend = Literal["onnx", "openvino"]
EXPORT_BACKENDS: Final[tuple[ExportBackend, ...]] = get_args(ExportBackend)
_PACKAGES: Final = {"onnx": "onnxruntime", "openvino": "openvino"}


class MissingRuntimeError(ModelError):
    """The package that runs an export is not installed."""


class Runtime(Protocol):
    """A loaded graph from token ids to unit vectors, and possibly token states. Safe to call from several threads."""

    precision: str
    """Precision: "float32", "bfloat16" or "int8"."""

    def __call__(self, batches: Sequence[TokenBatch]) -> list[NDArray[np.float32]]:
        """Return unit vectors float32 [n, d] per batch, in order."""

    def with_token_states(self, batches: Sequence[TokenBatch]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return unit vectors and token states, float32 [n, width, d], per batch; of graphs that have both."""


def require_runtime(backend: ExportBackend) -> None:
    """Raise MissingRuntimeError, which names the extra, if the package of the backend is not installed."""
    package = _PACKAGES[backend]
    if find_spec(package) is None:
        raise MissingRuntimeError(
            f"The {backend} backend needs the package {package!r}, which is not installed; "
            f"run `pip install 'llama-index-ace-finetune[{backend}]'`."
        )


def open_runtime(backend: ExportBackend, file: Path, *, precision: str, threads: int) -> Runtime:
    """Load the graph in `file`.

    Args:
        backend: runtime of the export.
        file: the graph; its weights may be in a file next to it.
        precision: of the weights, "float32" or "int8".
        threads: total number of threads.

    Raises:
        MissingRuntimeError: if the backend's package is not installed.
        ModelError: if it cannot load the graph.
    """
    require_runtime(backend)
    try:
        if backend == "onnx":
            from llama_index_ace_finetune.encoders.exports.onnx_runtime import OnnxRuntime

            return OnnxRuntime(file, precision=precision, threads=threads)
        from llama_index_ace_finetune.encoders.exports.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(file, threads=threads)
    except Exception as error:  # each runtime has its own error classes
        raise ModelError(
            f"The export {str(file)!r} cannot be loaded ({first_line(error)}); export again with `ace-finetune export`."
        ) from error
