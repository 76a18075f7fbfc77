"""OpenVINO on the processor."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.exports.runtime import INPUTS
from llama_index_ace_finetune.encoders.exports.token_batches import TokenBatch

_MOST_STREAMS = 4


class OpenVinoRuntime:
    """A graph in OpenVINO, in bfloat16 where the processor multiplies in it, else in float32.

    Batches, and calls from several threads, run side by side in as many streams as there are threads (four at most):
    a thread's share of a small model's products is too small to be worth dividing further.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        core = openvino.Core()
        fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bfloat16" if fast else "float32"
        streams = min(threads, _MOST_STREAMS)
        compiled = core.compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
            },
        )
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="openvino") if streams > 1 else None

    def __call__(self, batches: Sequence[TokenBatch]) -> list[NDArray[np.float32]]:
        """Run the batches, as many at a time as there are streams; see `Runtime`."""
        if self._pool is None or len(batches) == 1:
            return [self._run(batch) for batch in batches]
        return list(self._pool.map(self._run, batches))

    def _run(self, batch: TokenBatch) -> NDArray[np.float32]:
        request = self._requests.get()
        try:
            outputs = request.infer(dict(zip(INPUTS, (batch.token_ids, batch.attention_mask), strict=True)))
            # The output lies in the request's own memory, which its next run overwrites.
            return np.array(outputs[0], np.float32)
        finally:
            self._requests.put(request)
