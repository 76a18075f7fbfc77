"""read_dataset: data of any known format, also of a Qdrant collection, as a RetrievalDataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_index_ace_finetune.datasets import read_dataset as files
from llama_index_ace_finetune.datasets.readers.query_mapping import RelevantIds
from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.stores.qdrant.collection_address import is_collection_address

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode

Data: TypeAlias = str | Path | RetrievalDataset
"""A dataset, or a path from which one is read."""

Memories: TypeAlias = str | Path | Sequence[Memory] | Sequence["BaseNode"]
"""Further memories: a path, the address of a Qdrant collection, memories, or LlamaIndex nodes."""


def read_dataset(
    source: Data | Any,
    memories: Memories | Any | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the field's own name
    queries: Mapping[str, RelevantIds] | None = None,
    columns: str | Mapping[str, str] | None = None,
) -> RetrievalDataset:
    """Read a dataset of any known format; `dataset.ledger.format` names the format that was recognised.

    Args:
        source: a path (an ACE suite, inventory, playbook or skillbook, a folder of them, a BEIR folder, an
            EmbeddingQAFinetuneDataset, pairs or a list of memories as CSV, TSV, JSON Lines, JSON or Parquet, a
            persisted LlamaIndex index; text files may be gzipped), a Qdrant collection (see `memories`), a sequence of
            LlamaIndex nodes, or a `datasets.Dataset`. A `RetrievalDataset` is returned as it is.
        memories: a second source whose memories join the corpus by their ids: a path of any of these formats, a
            sequence of nodes or of `Memory`, the address of a Qdrant server, the folder of an embedded Qdrant, or the
            folder of a persisted index. Of an id that both sources hold, the text of `source` is used, but that of a
            LlamaIndex node takes precedence, since it is what LlamaIndex embeds.
        format: the only format to try, one of `FORMATS`.
        queries: query texts with the ids of their positives, for sources with only memories.
        columns: names of the columns of a table, as `"query=question,text=context"` or a mapping of the same.

    Rows that cannot be used are counted in the ledger and left out.

    Raises:
        DatasetError: if the data cannot be read: one sentence with the file and, if there is one, the line.
        StoreError: if a Qdrant collection cannot be read.
    """
    if isinstance(source, RetrievalDataset):
        if any(given is not None for given in (memories, format, queries, columns)):
            raise DatasetError(
                f"{source.name}: this is a dataset already; read its file with these memories or columns instead."
            )
        return source
    return files.read_dataset(_opened(source), _opened(memories), format=format, queries=queries, columns=columns)


def _opened(source: Any) -> Any:
    """Return the nodes or memories of a Qdrant collection; any other source as it is."""
    if not isinstance(source, (str, Path)):
        return source
    if not is_collection_address(source):
        return source
    from llama_index_ace_finetune.stores.qdrant.read_collection import read_collection

    return read_collection(source)
