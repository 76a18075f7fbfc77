"""encode_memories: the vectors of a corpus, shard by shard, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_index_ace_finetune.datasets.readers.column_choice import ColumnChoice
from llama_index_ace_finetune.encoders.exports.load_encoder import Backend
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.scale.encode_shard import EncodeTask, EncodeWork
from llama_index_ace_finetune.scale.engine import EngineSettings, run_shards
from llama_index_ace_finetune.scale.memory_files import SHARD_ROWS, divide_rows, parquet_files
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.utils.disk_full import disk_full_is_an_error
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import require_writable


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedMemories:
    """A folder of shards.

    Attributes:
        path: of the folder.
        memories: number of memories in it.
        left_out: rows of the input without an id or a text, or with an id that is in the same shard already.
        shards: number of shards.
        kept: how many of them an earlier call had encoded.
    """

    path: Path
    memories: int
    left_out: int
    shards: int
    kept: int


def encode_memories(
    memories: Path,
    model: str | Path,
    out: Path,
    *,
    columns: ColumnChoice | None = None,
    settings: EncoderSettings | None = None,
    backend: Backend = "torch",
    engine: EngineSettings | None = None,
    shard_rows: int = SHARD_ROWS,
    progress: Callable[[int], None] | None = None,
) -> EncodedMemories:
    """Encode the memories in Parquet files to a folder of shards; the same call resumes an interrupted one.

    A shard is written whole or not at all, and those that are there are not encoded again.

    Args:
        memories: a Parquet file, or a folder with Parquet files, with columns of ids and texts.
        model: folder or hub name. For Ray, every machine has to have it, and see `memories` and `out`.
        out: folder of the shards.
        columns: names of the columns (`answer_id` and `text`).
        settings: of the encoder.
        backend: see `load_encoder`.
        engine: where to encode; in this process by default.
        shard_rows: rows per shard, at most.
        progress: called with the number of rows of each finished shard.

    Raises:
        AceFinetuneError: if the input cannot be read, the output cannot be written, holds something else or is being
            written by another process, or Ray cannot be used.
        ModelError: if the model cannot be loaded, or differs between machines.
        StoreError: if the folder holds vectors of another model or of other memories.
    """
    if shard_rows < 1:
        raise AceFinetuneError(f"The number of rows per shard is {shard_rows}; it must be at least 1.")
    settings = settings or EncoderSettings()
    # Workers have another working folder; a hub name stays as it is, since prompts may follow from it.
    name = str(Path(model).absolute()) if Path(model).exists() else str(model)
    identity = identify_model(name, settings=settings)
    parts = divide_rows(parquet_files(memories), rows=shard_rows)
    out = out.absolute()
    require_writable(out / "shard")
    with locked(out.with_name(f".{out.name}.lock"), output=out), disk_full_is_an_error(out):
        folder = ShardFolder.plan(out, parts, model=name, fingerprint=identity.documents)
        finished = folder.finished()
        folder.require_same_vectors(list(finished.values()))
        if progress:
            progress(sum(parts[number].rows for number in finished))
        work = EncodeWork(
            model=name, settings=settings, backend=backend,
            fingerprint=identity.documents, columns=columns or ColumnChoice(),
            memories=(memories if memories.is_dir() else memories.parent).absolute(),
        )  # fmt: skip
        tasks = [EncodeTask(n, part, folder.file(n)) for n, part in enumerate(parts) if n not in finished]
        headers = dict(finished)
        for header in run_shards(work, tasks, engine or EngineSettings(), use_gpus=settings.device != "cpu"):
            headers[header.number] = header
            folder.require_same_vectors(list(headers.values()))
            if progress:
                progress(parts[header.number].rows)
    left_out = sum(header.left_out for header in headers.values())
    rows = sum(part.rows for part in parts)
    return EncodedMemories(path=out, memories=rows - left_out, left_out=left_out, shards=len(parts), kept=len(finished))
