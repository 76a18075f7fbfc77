"""Build the index that serves a model's memories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance, settings_of_base
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.retrievers.open_known_queries import build_known_queries
from llama_index_ace_finetune.retrievers.open_sparse import add_memories, load_sparse_encoder
from llama_index_ace_finetune.retrievers.open_tokens import build_tokens
from llama_index_ace_finetune.retrievers.open_windows import build_windows
from llama_index_ace_finetune.run_folder import (
    RunFolder,
    index_beside,
    known_query_folder,
    sparse_folder,
    token_folder,
    window_folder,
)
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.use_shards import shard_memories, with_shards
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.build_index import INDEX, build_index, index_grows, memory_nodes, new_index_folder
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.utils.new_folder import place_folder, require_replaceable, tidy


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexResult:
    """The folder of an index and the number of memories in it."""

    path: Path
    memories: int


def index(
    data: Data,
    model: str | Path,
    out: str | Path | None = None,
    *,
    memories: Memories | None = None,
    columns: str | None = None,
    replace: bool = False,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    shards: Sequence[str | Path] = (),
    events: PipelineEvents | None = None,
) -> IndexResult:
    """Embed memories with a tuned model and its base model into an embedded store.

    Args:
        data: a dataset, or a file or folder in any format that `read_dataset` takes.
        model: folder of the tuned model.
        out: folder of the index; beside the model by default.
        memories: further memories: a path, the address of a Qdrant collection, memories or LlamaIndex nodes.
        columns: names of the columns of a table, as `read_dataset` takes them.
        replace: replace an index that is there; files that a user added to it are kept.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`.
        shards: folders that `encode` wrote, of the tuned model, the base model or both. Their memories are indexed
            too, unless `memories` is given, and their vectors are used; other texts are encoded.
        events: receives progress.

    Raises:
        OutputExistsError: if `out` is not empty and `replace` is off.
        DatasetError: for data that cannot be read, or without memories.
        ModelError: if a model cannot be loaded, or the sparse encoder has changed since the evaluation.
        StoreError: if a shard is missing or damaged, or of neither model.
    """
    model = Path(model)
    path = Path(out) if out is not None else index_beside(model)
    check_index_output(path, replace=replace)
    folders = [ShardFolder.open(folder) for folder in shards]
    dataset = read_dataset(data, shard_memories(folders) if folders and memories is None else memories, columns=columns)
    models = load_both_models(model, EncoderSettings(device=device, precision=precision))
    tuned, base = with_shards(models, folders)
    run = RunFolder.of_model(model)
    serving = run.serving() if run else None
    encoder = load_sparse_encoder(serving, device=device) if serving and serving.sparse_encoder else None
    count = write_index(
        dataset.memories.values(),
        tuned=tuned,
        base=base,
        path=path,
        serving=serving,
        corpus=[memory.text for memory in dataset.answers.values()],
        sparse=StoredSparseVectors(encoder) if encoder else None,
        known=KnownQueries.of(dataset, read_provenance(model)),
        replace=replace,
        events=events,
    )
    return IndexResult(path=path, memories=count)


def load_both_models(model: Path, settings: EncoderSettings) -> tuple[Encoder, Encoder]:
    """Return a tuned model and its base.

    Raises:
        ModelError: if one cannot be loaded.
    """
    tuned = Encoder.load(model, settings=settings)
    record = read_provenance(model)
    base_name = (record or {}).get("base_model") or DEFAULT_BASE_MODEL
    return tuned, Encoder.load(base_name, settings=settings_of_base(record, base_name, settings))


def write_index(
    memories: Iterable[Memory],
    *,
    tuned: Encoder,
    base: Encoder,
    path: Path,
    serving: Serving | None = None,
    corpus: Sequence[str] | None = None,
    tokens: TokenReranker | None = None,
    sparse: StoredSparseVectors | None = None,
    known: KnownQueries | None = None,
    replace: bool = False,
    cache: Path | None = None,
    events: PipelineEvents | None = None,
) -> int:
    """Embed memories with both models into an embedded store in `path`; return how many there are.

    It is built in a temporary folder and moved into place. With `replace`, an index of ours is replaced, and files that
    a user added to it are kept. If `serving` uses late interaction, the token vectors of the model that serves are
    written too; `corpus` are the texts that the evaluation computed their projection from, and `tokens` those that it
    made (`build_tokens`). So are
    `sparse`, the vectors of the sparse encoder that serves; missing ones are encoded. If `serving` uses windows of long
    texts, their vectors are written, and if it uses known queries, those of `known`.

    Raises:
        OutputExistsError: if `path` is not empty and `replace` is off.
        DatasetError: without memories.
    """
    nodes = memory_nodes(memories)
    if not nodes:
        raise DatasetError("There are no memories to index; give data that holds some.")
    check_index_output(path, replace=replace)
    late = serving is not None and serving.has_late_interaction
    model = base if serving is not None and serving.vectors == "base" else tuned
    total = (3 if late else 2) * len(nodes)
    if sparse is not None:
        total += len(sparse.missing(node.get_content(MetadataMode.EMBED) for node in nodes))
    bar = (events or PipelineEvents()).texts_progress("indexing", total)
    with new_index_folder(path) as aside, bar as progress:
        store = build_index(nodes, finetuned=tuned, baseline=base, path=aside, cache=cache, progress=progress)
        try:
            if serving is not None and late:
                folder = token_folder(aside)
                settings = TokenSettings(pooling=serving.token_pooling)
                build_tokens(
                    store, model, folder=folder, corpus=corpus, settings=settings, encoded=tokens, progress=progress
                )
            if sparse is not None:
                add_memories(sparse, store, progress=progress)
                sparse.save(sparse_folder(aside))
        finally:
            store.close()
        if serving is not None and serving.windows:
            every = (node.get_content(MetadataMode.EMBED) for node in nodes)
            build_windows(every, model, folder=window_folder(aside), cache=cache)
        if serving is not None and serving.uses_known_queries and known is not None:
            texts = {node.node_id: node.get_content(MetadataMode.EMBED) for node in nodes}
            with_texts = serving.known_query_weight > 0
            build_known_queries(
                known, texts, model, folder=known_query_folder(aside), with_texts=with_texts, cache=cache
            )
    return len(nodes)


def place_index(folder: Path, path: Path) -> None:
    """Move an index that `write_index` made to `path`, in place of an older one of ours."""
    place_folder(folder, path, kind=INDEX, grows=index_grows())


def check_index_output(path: Path, *, replace: bool) -> None:
    """Check, before any work, that an index can be written to `path`.

    Raises:
        OutputExistsError: if it is not empty and `replace` is off, or is no index of ours.
        AceFinetuneError: if nothing can be written there.
    """
    tidy(path)
    require_replaceable(path, kind=INDEX)
    if path.is_dir() and any(path.iterdir()) and not replace:
        raise OutputExistsError(
            f"The index folder {str(path)!r} already holds an index; give another one, or replace it with --replace."
        )
