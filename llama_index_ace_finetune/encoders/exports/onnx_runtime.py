"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from llama_index_ace_finetune.encoders.exports.token_batches import INPUTS, TokenBatch

_ERRORS_ONLY = 3


class OnnxRuntime:
    """A graph in ONNX Runtime; every batch uses all threads."""

    def __init__(self, file: Path, *, precision: str, threads: int) -> None:
        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin between queries take CPU time from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.precision = precision

    def __call__(self, batches: Sequence[TokenBatch]) -> list[NDArray[np.float32]]:
        """Run the batches one after the other; see `Runtime`."""
        return [self._run(batch, self._outputs[:1])[0] for batch in batches]

    def with_token_states(self, batches: Sequence[TokenBatch]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Run the batches one after the other; see `Runtime`."""
        found = (self._run(batch, self._outputs) for batch in batches)
        return [(vectors, states) for vectors, states in found]

    def _run(self, batch: TokenBatch, outputs: list[str]) -> list[NDArray[np.float32]]:
        inputs = dict(zip(INPUTS, (batch.token_ids, batch.attention_mask), strict=True))
        return cast("list[NDArray[np.float32]]", self._session.run(outputs, inputs))
