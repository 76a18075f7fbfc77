"""LlamaIndex's EmbeddingQAFinetuneDataset as JSON, read and written here, as LlamaIndex no longer has the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.builder import DatasetBuilder
from llama_index_ace_finetune.datasets.readers.json_document import (
    JsonDocument,
    expect_field,
    expect_list,
    expect_object,
)
from llama_index_ace_finetune.datasets.readers.reader import Reader, ReadOptions
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.atomic import write_json


def _can_read(document: JsonDocument, options: ReadOptions) -> bool:
    """Return whether the document is an EmbeddingQAFinetuneDataset."""
    return isinstance(document.value, dict) and {"corpus", "relevant_docs"} <= document.value.keys()


def read(document: JsonDocument, builder: DatasetBuilder, options: ReadOptions) -> None:
    """Add `{"queries": {id: text}, "corpus": {id: text}, "relevant_docs": {query id: [id]}}`; raises DatasetError."""
    root = document.root
    value = expect_object(document.value, root, "the dataset")
    corpus = expect_object(expect_field(value, "corpus", root), root.at("corpus"), "corpus")
    queries = expect_object(expect_field(value, "queries", root), root.at("queries"), "queries")
    relevant = expect_object(expect_field(value, "relevant_docs", root), root.at("relevant_docs"), "relevant_docs")
    for memory_id, text in corpus.items():
        location = builder.location(root.at("corpus", memory_id))
        with builder.row(location):
            builder.add_memory(memory_id, text, location)
    for query_id, text in queries.items():
        location = builder.location(root.at("queries", query_id))
        with builder.row(location):
            builder.add_query(query_id, text, location)
    for query_id, listed in relevant.items():
        location = builder.location(root.at("relevant_docs", query_id))
        with builder.row(location):
            for index, memory_id in enumerate(expect_list(listed, location, "the list of relevant ids")):
                if not isinstance(memory_id, str):
                    raise DatasetError(
                        f"{location.at(index)}: the memory id {memory_id!r:.80} is not a string; quote it."
                    )
                builder.judge(query_id, memory_id, 1.0, location.at(index))


def write_qa_dataset(dataset: RetrievalDataset, path: str | Path) -> None:
    """Write the dataset as EmbeddingQAFinetuneDataset JSON, whole or not at all.

    The format holds ids, texts and positives, but no metadata, grades or negatives. Raises DatasetError if the path
    cannot be written.
    """
    relevant: dict[str, list[str]] = {}
    for query_id, grades in dataset.judgements.items():
        positives = sorted(memory_id for memory_id, grade in grades.items() if grade > 0)
        if positives:
            relevant[query_id] = positives
    value: dict[str, Any] = {
        "queries": {q.id: q.text for q in dataset.queries.values()},
        "corpus": {m.id: m.text for m in dataset.memories.values()},
        "relevant_docs": relevant,
        "mode": "text",
    }
    try:
        write_json(Path(path), value)
    except OSError as error:
        raise DatasetError(f"{path}: the dataset cannot be written ({error}); choose another path.") from error


READER = Reader(
    name="qa_dataset",
    signature="a LlamaIndex QA dataset has 'corpus' and 'relevant_docs'",
    sources=(JsonDocument,),
    can_read=_can_read,
    read=read,
)
