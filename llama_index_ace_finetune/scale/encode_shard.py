"""encode_shard: the vectors of a shard; the same in one process and on any worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.load_encoder import Backend, load_encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.scale.memory_files import RowRange, read_memories
from llama_index_ace_finetune.scale.vector_shard import ShardHeader, VectorShard, shard_header, write_shard


def encode_shard(memories: Sequence[Memory], encoder: Encoder) -> VectorShard:
    """Return the memories with their vectors, float32 [n, dimension].

    On a CPU with one thread, as a Ray worker has, the vectors do not depend on how a corpus is divided into shards.
    With more threads their last digits may, since each thread computes some rows of a matrix product.
    """
    return VectorShard(memories, encoder.encode_documents([memory.text for memory in memories]))


@dataclass(frozen=True)
class EncodeTask:
    """A shard to encode: its number, its rows, and the file to write."""

    number: int
    part: RowRange
    file: Path


@dataclass(frozen=True)
class EncodeWork:
    """What a worker needs to encode shards; `start` loads the model once.

    Attributes:
        model: folder or hub name; every machine has to have it.
        settings: of the encoder.
        backend: torch, onnx, openvino, or auto for the fastest one that the model folder has.
        fingerprint: of the document vectors, which the model has to have.
        memories: folder of the Parquet files, which every machine has to see.
        columns: names of the columns of ids and texts.
    """

    model: str
    settings: EncoderSettings
    backend: Backend
    fingerprint: str
    memories: Path
    columns: ColumnChoice

    def start(self) -> Callable[[EncodeTask], ShardHeader]:
        """Load the model, and return the function that encodes and writes a shard.

        Raises:
            ModelError: if the model is missing here, or is another one.
        """
        encoder = load_encoder(self.model, settings=self.settings, backend=self.backend)
        if encoder.document_fingerprint != self.fingerprint:
            raise ModelError(
                f"The model {self.model!r:.120} differs between machines (fingerprint "
                f"{encoder.document_fingerprint!r}, not {self.fingerprint!r}); copy the same model to all of them."
            )

        def encode(task: EncodeTask) -> ShardHeader:
            memories, left_out = read_memories(self.memories, task.part, self.columns)
            header = shard_header(
                number=task.number, fingerprint=self.fingerprint, vectors=encoder.vector_key("document"),
                source=task.part.digest, left_out=left_out,
            )  # fmt: skip
            write_shard(task.file, encode_shard(memories, encoder), header)
            return header

        return encode
