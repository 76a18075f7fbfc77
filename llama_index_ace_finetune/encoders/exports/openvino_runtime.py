"""OpenVINO on the CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.exports.token_batches import INPUTS, TokenBatch

_MOST_STREAMS = 4


class OpenVinoRuntime:
    """A graph in OpenVINO, in bfloat16 if the CPU supports it, else in float32.

    A single batch, such as a query, uses all threads. Several batches run in parallel in as many streams as there are
    threads (four at most), since the products of a small model are too small to divide further. The graph is compiled
    for streams at their first use.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        core = openvino.Core()
        fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bfloat16" if fast else "float32"

        def compiled(streams: int) -> _Streams:
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
            }
            return _Streams(core.compile_model(str(file), "CPU", options), streams)

        self._compiled = compiled
        self._streams = min(threads, _MOST_STREAMS)
        self._single = compiled(1)
        self._parallel: _Streams | None = self._single if self._streams == 1 else None
        self._compiling = threading.Lock()

    def __call__(self, batches: Sequence[TokenBatch]) -> list[NDArray[np.float32]]:
        """Run the batches, as many at a time as there are streams; see `Runtime`."""
        return [vectors for (vectors,) in self._run(batches, 1)]

    def with_token_states(self, batches: Sequence[TokenBatch]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Run the batches, as many at a time as there are streams; see `Runtime`."""
        return [(vectors, states) for vectors, states in self._run(batches, 2)]

    def _run(self, batches: Sequence[TokenBatch], outputs: int) -> list[list[NDArray[np.float32]]]:
        """Return the first outputs of each batch."""
        if len(batches) == 1:
            return [self._single.run(batches[0], outputs)]
        with self._compiling:
            if self._parallel is None:
                self._parallel = self._compiled(self._streams)
        return self._parallel.run_all(batches, outputs)


class _Streams:
    """A compiled graph with a request for each of its streams."""

    def __init__(self, compiled: openvino.CompiledModel, count: int) -> None:
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(count):
            self._requests.put(compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="openvino") if count > 1 else None

    def run_all(self, batches: Sequence[TokenBatch], outputs: int) -> list[list[NDArray[np.float32]]]:
        return list((self._pool.map if self._pool else map)(self.run, batches, [outputs] * len(batches)))

    def run(self, batch: TokenBatch, outputs: int) -> list[NDArray[np.float32]]:
        request = self._requests.get()
        try:
            found = request.infer(dict(zip(INPUTS, (batch.token_ids, batch.attention_mask), strict=True)))
            # The outputs are in the memory of the request, which its next run overwrites.
            return [np.array(found[number], np.float32) for number in range(outputs)]
        finally:
            self._requests.put(request)
