"""A log of queries and ids beside the texts: joined by id, whatever file or folder holds them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import dataset_files as files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llama_index.core.schema import TextNode

from llama_index_ace_finetune import Memory, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.stores.read_dataset import read_dataset

TEXTS = {
    "kb-101": "Uploads above two gigabytes need the chunked endpoint.",
    "kb-102": "Rotate the signing keys every ninety days.",
    "kb-103": "Close the ticket only after the customer agrees.",
    "kb-104": "Printers on the third floor use the queue named spruce.",
}
LOG = [("big file fails", "kb-101"), ("how old may a key get", "kb-102"), ("may I close it", "kb-103")]


def write_table(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def _csv(folder: Path) -> Path:
    return write_table(folder / "snippets.csv", ["snippet_id", "body"], list(TEXTS.items()))


def _jsonl(folder: Path) -> Path:
    path = folder / "snippets.jsonl"
    path.write_text("".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in TEXTS.items()))
    return path


def _beir(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in TEXTS.items()))
    return path


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"doc_id": list(TEXTS), "content": list(TEXTS.values())}), folder / "snippets.parquet")
    return folder / "snippets.parquet"


def nodes(metadata: dict[str, str] | None = None) -> list[TextNode]:
    return [TextNode(id_=key, text=text, metadata=metadata or {}) for key, text in TEXTS.items()]


def _persisted(folder: Path) -> Path:
    from llama_index.core import StorageContext

    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(nodes())
    storage.persist(str(folder / "storage"))
    return folder / "storage"


def joined(dataset: RetrievalDataset) -> set[tuple[str, str]]:
    """The (query, text) pairs of the judgements."""
    return {
        (dataset.queries[query].text, dataset.memories[memory].text)
        for query, grades in dataset.judgements.items()
        for memory in grades
    }


@pytest.mark.parametrize(
    "texts", [_csv, _jsonl, _beir, _parquet, _persisted, lambda folder: _persisted(folder) / "docstore.json"]
)
@pytest.mark.parametrize("header", [("query_text", "snippet_id"), ("search_term", "node_id")])
def test_log_of_ids_is_joined_to_its_texts(
    texts: Callable[[Path], Path], header: tuple[str, str], tmp_path: Path
) -> None:
    log = write_table(tmp_path / "log.csv", list(header), LOG)
    dataset = read_dataset(log, texts(tmp_path))
    assert joined(dataset) == {(query, TEXTS[memory]) for query, memory in LOG}
    assert {key: memory.text for key, memory in dataset.memories.items()} == TEXTS


def test_column_of_ids_taken_for_texts_is_not_trained_on(tmp_path: Path) -> None:
    log = write_table(tmp_path / "log.csv", ["query", "answer"], LOG)
    with pytest.raises(DatasetError, match=r"'answer' holds ids such as 'kb-101'.*give the texts of these ids"):
        read_dataset(log)
    assert joined(read_dataset(log, _csv(tmp_path))) == {(query, TEXTS[memory]) for query, memory in LOG}


def test_any_format_whose_texts_are_ids_is_refused() -> None:
    memories = [Memory(str(number), f"kb-10{number}") for number in range(4)]
    with pytest.raises(DatasetError, match=r"texts of the memories are ids \(such as 'kb-100'\)"):
        read_dataset(memories, queries={"big file fails": ["0"], "how old may a key get": ["1"]})


def test_short_answers_that_a_query_names_are_texts(tmp_path: Path) -> None:
    rows = [
        ("where is port 8080 set", "--port=8080"),
        ("use 4 workers", "--workers=4"),
        ("log to file1", "--log=file1"),
    ]
    dataset = read_dataset(write_table(tmp_path / "flags.csv", ["query", "answer"], rows))
    assert joined(dataset) == set(rows)


@pytest.mark.parametrize(
    ("header", "named", "guess"),
    [
        (["when", "was_gesucht", "treffer"], {}, "is it 'was_gesucht'.*--columns query=was_gesucht"),
        (["when", "querry_txt", "treffer"], {}, "is it 'querry_txt'"),
        (["when", "query", "treffer"], {}, "is it 'treffer'.*answer_id=treffer"),
    ],
)
def test_error_lists_the_columns_and_guesses(
    header: list[str], named: dict[str, str], guess: str, tmp_path: Path
) -> None:
    log = write_table(tmp_path / "log.csv", header, [("2026-05-01", *row) for row in LOG])
    with pytest.raises(DatasetError, match=f"the columns are .*{header[-1]}.*{guess}"):
        read_dataset(log, _csv(tmp_path), columns=named)


def test_text_of_a_node_is_the_one_that_llama_index_embeds(tmp_path: Path) -> None:
    """Bare texts of the data would train on other texts than are served."""
    served = {node.node_id: f"team: it\n\n{node.text}" for node in nodes()}
    by_text = write_table(tmp_path / "pairs.csv", ["query", "passage"], [(q, TEXTS[m]) for q, m in LOG])
    corpus = {"queries": {"q": LOG[0][0]}, "corpus": {"kb-101": TEXTS["kb-101"]}, "relevant_docs": {"q": ["kb-101"]}}
    for data, rule in ((by_text, "memory_joined_to_node"), (files.write_json(tmp_path / "qa.json", corpus), "text_of")):
        dataset = read_dataset(data, nodes({"team": "it"}))
        assert {key: memory.text for key, memory in dataset.memories.items()} == served
        assert any(rule in name for name in dataset.ledger.counts)
        assert (LOG[0][0], served["kb-101"]) in joined(dataset)


def test_whole_documents_of_a_docstore_are_left_out(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "docstore.json", files.DOCSTORE))
    assert [memory.text for memory in dataset.memories.values()] == [
        "team: it\n\nRetry the upload with a growing delay"
    ]
    assert dataset.ledger.counts["source_document_left_out"] == 1


def test_empty_docstore_points_to_the_vector_store(tmp_path: Path) -> None:
    files.write_json(tmp_path / "docstore.json", {"docstore/data": {}})
    with pytest.raises(DatasetError, match=r"holds no nodes.*Qdrant collection"):
        read_dataset(tmp_path)
