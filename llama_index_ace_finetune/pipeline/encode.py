"""Encode memories to shards, in this process or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.exports.load_encoder import Backend
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.scale.encode_memories import EncodedMemories, encode_memories
from llama_index_ace_finetune.scale.engine import EngineSettings
from llama_index_ace_finetune.scale.memory_files import SHARD_ROWS, parquet_files, write_memories
from llama_index_ace_finetune.scale.shard_folder import MEMORIES, require_shard_output
from llama_index_ace_finetune.stores.read_dataset import Data, read_dataset


def encode(
    memories: Data,
    out: str | Path,
    *,
    model: str | Path = DEFAULT_BASE_MODEL,
    columns: str | None = None,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    backend: Backend = "torch",
    engine: EngineSettings | None = None,
    shard_rows: int = SHARD_ROWS,
    events: PipelineEvents | None = None,
) -> EncodedMemories:
    """Write the vectors of memories to a folder of Parquet shards, which `index` and `generate` read.

    The same call resumes an interrupted one: shards that are there are kept.

    Args:
        memories: a Parquet file, or a folder of them, which is read shard by shard; or data in any other format that
            `read_dataset` takes, which is read as a whole.
        out: folder of the shards.
        model: embedding model, by folder or hub name.
        columns: names of the columns of a table, as `read_dataset` takes them.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`.
        query_prompt: text in front of queries, if not that of the model or its family: a part of the fingerprint.
        document_prompt: text in front of every memory; by default that of the model or its family.
        backend: torch, onnx or openvino; "auto" uses the fastest export that the model folder has.
        engine: where to encode; in this process by default.
        shard_rows: rows per shard, at most.
        events: receives progress.

    Raises:
        AceFinetuneError: for memories that cannot be read, an output that cannot be written, or a Ray cluster that
            cannot be used.
        ModelError: if the model cannot be loaded, or differs between machines.
        StoreError: if the folder holds shards of another model or of other memories.
    """
    out, events = Path(out), events or PipelineEvents()
    source = Path(memories) if isinstance(memories, (str, Path)) and parquet_files(Path(memories)) else None
    if source is None:
        require_shard_output(out)
        held = read_dataset(memories, columns=columns).memories.values()
        source = out / MEMORIES / "memories.parquet"
        write_memories(source, held)
        columns = None
    settings = EncoderSettings(
        device=device, precision=precision, query_prompt=query_prompt, document_prompt=document_prompt
    )
    with events.texts_progress("encoding", None) as progress:
        return encode_memories(
            source, model, out, columns=ColumnChoice.of(columns), backend=backend, engine=engine, settings=settings,
            shard_rows=shard_rows, progress=progress,
        )  # fmt: skip
