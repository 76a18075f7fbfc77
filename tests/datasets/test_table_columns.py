"""Columns are recognised by their names, and a choice between two interpretations is noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.text import id_from_text
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError


def _answers(dataset: RetrievalDataset) -> dict[str, set[str]]:
    return {q.text: {dataset.memories[i].text for i in dataset.relevant(q.id)} for q in dataset.queries.values()}


def _noted(dataset: RetrievalDataset, rule: str) -> str:
    return next(line for line in dataset.ledger.lines() if line.startswith(rule))


def _rows(folder: Path, rows: list[dict[str, Any]]) -> RetrievalDataset:
    return read_dataset(files.write_json_lines(folder / "rows.jsonl", rows))


@pytest.mark.parametrize(
    "header",
    [
        "Question,Answer",
        "QUERY TEXT,Response",
        " queryText , ground_truth ",
        "Frage,Antwort",
        "pergunta,resposta",
        "質問,回答",
        "User-Query,Page Content",
        "prompt,completion",
        "user_input,reference",
    ],
)
def test_case_spaces_and_usual_synonyms_of_headers(tmp_path: Path, header: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\nwhere is the key,In the drawer.\n", encoding="utf-8")
    assert _answers(read_dataset(path)) == {"where is the key": {"In the drawer."}}


@pytest.mark.parametrize(
    "names", [("answer", "context"), ("Response", "Passage"), ("ground_truth", "contexts"), ("response", "reference")]
)
def test_passage_is_preferred_to_answer(tmp_path: Path, names: tuple[str, str]) -> None:
    passage = "Rule 9: badges expire after one year. Ask the front desk."
    row = {"question": "when do badges expire", names[0]: "After a year.", names[1]: passage}
    dataset = _rows(tmp_path, [row])
    assert _answers(dataset) == {"when do badges expire": {passage}}
    assert names[0] in _noted(dataset, "text_column_chosen: 1")
    assert "--columns text=NAME" in _noted(dataset, "text_column_chosen")


def test_the_answer_can_be_chosen(tmp_path: Path) -> None:
    row = {"question": "when do badges expire", "answer": "After a year.", "context": "Rule 9."}
    path = files.write_json_lines(tmp_path / "rows.jsonl", [row])
    for columns in ("text=answer", {"answer": "Answer"}):
        assert _answers(read_dataset(path, columns=columns)) == {"when do badges expire": {"After a year."}}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("more", [{"content": "Rule 9"}, {"memory_id": 4}, {"payload": {"lesson": "x"}, "text": "y"}])
def test_rows_with_query_and_answer_are_pairs_whatever_else_they_have(
    tmp_path: Path, suffix: str, more: dict[str, Any]
) -> None:
    rows = [
        {"id": 1, "question": "when do badges expire", "answer": "After a year.", **more},
        {"id": 2, "question": "who prints badges", "answer": "The front desk.", **more, "memory_id": 5},
    ]
    path = tmp_path / f"rows.{suffix}"
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == "jsonl" else json.dumps(rows))
    dataset = read_dataset(path)
    assert dataset.ledger.format == "pairs"
    assert _answers(dataset) == {"when do badges expire": {"After a year."}, "who prints badges": {"The front desk."}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hard_negatives", ["Wrong one."]),
        ("easyNegatives", ["Wrong one."]),
        ("Negative Passage", "Wrong one."),
        ("bm25_negative_2", "Wrong one."),
        ("hard_neg", "Wrong one."),
        ("hard_negative_ctxs", [{"title": "", "text": "Wrong one."}]),
        ("negative_passages", [{"docid": "9", "text": "Wrong one."}]),
    ],
)
def test_columns_of_negatives_get_grade_zero(tmp_path: Path, name: str, value: object) -> None:
    dataset = _rows(tmp_path, [{"query": "a", "positive": "Right one.", name: value}])
    (query_id,) = dataset.queries
    assert {dataset.memories[i].text for i in dataset.judged_negative(query_id)} == {"Wrong one."}


@pytest.mark.parametrize("name", ["negative_ids", "negative_score", "num_negatives", "is_negative", "negotiable"])
def test_columns_about_negatives_are_metadata(tmp_path: Path, name: str) -> None:
    dataset = _rows(tmp_path, [{"query": "a", "positive": "Right one.", name: "7"}])
    assert len(dataset.memories) == 1
    assert next(iter(dataset.queries.values())).metadata[name] == "7"


@pytest.mark.parametrize(
    ("scores", "relevant"),
    [
        (["0.92", "0.04"], {"first"}),
        (["92%", "4%"], {"first"}),
        (["0,81", "0,49"], {"first"}),
        (["4.6", "0.8"], {"first"}),
        (["-0.2", "0.7"], {"second"}),
        (["8.25", "-3.5"], {"first"}),
        (["1", "0"], {"first"}),
        (["true", "False"], {"first"}),
        (["relevant", "not relevant"], {"first"}),
        (["2", "1"], {"first", "second"}),
    ],
)
def test_fractions_are_similarities_and_integers_grades(tmp_path: Path, scores: list[str], relevant: set[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"query;answer;score\nq;first;{scores[0]}\nq;second;{scores[1]}\n")
    dataset = read_dataset(path)
    assert _answers(dataset) == {"q": relevant}
    is_similarity = any(mark in "".join(scores) for mark in ".,%")
    assert ("scores_read_as_similarities" in dataset.ledger.counts) == is_similarity


def test_low_similarity_is_not_a_judgement_and_the_threshold_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("query,answer,similarity\nq,first,0.9\nq,second,0.6\nq,third,0\n")
    dataset = read_dataset(path, columns="min_score=0.7")
    assert _answers(dataset) == {"q": {"first"}}
    (query_id,) = dataset.queries
    assert {dataset.memories[i].text for i in dataset.judged_negative(query_id)} == {"third"}
    assert "0.7 and above" in _noted(dataset, "score_threshold: 1")


def test_large_integers_are_noted(tmp_path: Path) -> None:
    dataset = _rows(tmp_path, [{"query": "q", "answer": "a", "score": 87}, {"query": "q", "answer": "b", "score": 0}])
    assert _answers(dataset) == {"q": {"a"}}
    assert "integers up to 87" in _noted(dataset, "large_grades: 1")


@pytest.mark.parametrize("name", ["doc_id", "Document-ID", "docid"])
def test_document_id_of_several_chunks_is_metadata(tmp_path: Path, name: str) -> None:
    rows = [
        {"question": "a", "context": "Chunk one.", name: "guide.pdf"},
        {"question": "b", "context": "Chunk two.", name: "guide.pdf"},
    ]
    dataset = _rows(tmp_path, rows)
    assert _answers(dataset) == {"a": {"Chunk one."}, "b": {"Chunk two."}}
    assert all(memory.metadata[name] == "guide.pdf" for memory in dataset.memories.values())
    assert "guide.pdf is the id of several texts" in _noted(dataset, "document_id_is_metadata: 1")
    whole = _rows(tmp_path, [rows[0], {**rows[1], name: "other.pdf"}])
    assert set(whole.memories) == {"guide.pdf", "other.pdf"}


def test_metadata_of_any_json_type_is_kept(tmp_path: Path) -> None:
    values: list[Any] = [["net", "vpn"], {"a": [1]}, True, 0.3, [["x"]], "word", 7]
    rows = [{"query": f"q{n}", "answer": f"The answer {n}.", "category": value} for n, value in enumerate(values)]
    dataset = _rows(tmp_path, rows)
    assert [query.metadata["category"] for query in dataset.queries.values()] == values


@pytest.mark.parametrize("memories", ["json", "csv", "jsonl", "parquet"])
def test_ids_are_joined_with_the_texts(tmp_path: Path, memories: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text("search term,snippet id\nlost my badge,s-1\nbadge prices,s-2\nnothing,s-9\n")
    rows = [{"id": "s-1", "text": "Ask the desk."}, {"id": "s-2", "text": "A new one is free."}]
    texts = tmp_path / f"snippets.{memories}"
    if memories == "json":
        files.write_json(texts, rows)
    elif memories == "jsonl":
        files.write_json_lines(texts, rows)
    elif memories == "csv":
        texts.write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), texts)
    dataset = read_dataset(log, texts)
    assert _answers(dataset) == {
        "lost my badge": {"Ask the desk."},
        "badge prices": {"A new one is free."},
        "nothing": set(),
    }
    assert "there is no memory 's-9'" in _noted(dataset, "judgement_of_unknown_id_left_out: 1")
    with pytest.raises(DatasetError, match="give the texts of these ids, such as with --memories"):
        read_dataset(log)


def test_named_columns_join_ids_and_texts(tmp_path: Path) -> None:
    log, texts = tmp_path / "log.csv", tmp_path / "notes.csv"
    log.write_text("was,wohin\nlost my badge,1\nbadge prices,2\n")
    texts.write_text("wohin,satz\n1,Ask the desk.\n2,A new one is free.\n")
    dataset = read_dataset(log, texts, columns="query=was,answer_id=wohin,text=satz")
    assert _answers(dataset) == {"lost my badge": {"Ask the desk."}, "badge prices": {"A new one is free."}}


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ("query=querry", "there is no column 'querry', which --columns names as query; the columns are query, answer"),
        ("text=anser", "is it 'answer'"),
        ("colour=x", "there is no 'colour'; name query, text, answer_id"),
        ("query", "is not of the form key=NAME; write --columns query=NAME,text=NAME"),
        ("query=query,query=answer", "query is named twice"),
        ("min_score=high", "must be a number"),
    ],
)
def test_bad_choices_of_columns(tmp_path: Path, columns: str, part: str) -> None:
    (tmp_path / "p.csv").write_text("query,answer\na,b\n")
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path / "p.csv", columns=columns)
    assert part in str(caught.value)


def test_columns_belong_to_tables(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "suite.json", files.suite())
    with pytest.raises(DatasetError, match="read as ace_suite; leave it out"):
        read_dataset(path, columns="query=x")


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ([{"id": "u-1", "memory": "Likes tea", "metadata": {"category": "taste"}}], {"u-1": "Likes tea"}),
        ({"results": [{"id": "u-1", "memory": "Likes tea", "hash": "f0"}]}, {"u-1": "Likes tea"}),
        ([{"id": "p-1", "text": "Likes tea", "embedding": [0.1], "tags": None}], {"p-1": "Likes tea"}),
        ({"result": {"points": [{"id": 3, "payload": {"content": "Likes tea"}}]}}, {"3": "Likes tea"}),
        ([{"uuid": "f-1", "fact": "Likes tea", "deleted_at": None}], {"f-1": "Likes tea"}),
        ([{"id": "d", "page_content": "Likes tea", "metadata": {}}], {"d": "Likes tea"}),
    ],
)
def test_shapes_of_agent_memories(tmp_path: Path, value: object, texts: dict[str, str]) -> None:
    path = files.write_json(tmp_path / "memories.json", value)
    suite = files.write_json(tmp_path / "suite.json", files.suite())
    dataset = read_dataset(suite, path)
    assert {i: dataset.memories[i].text for i in texts} == texts
    assert not any("embedding" in memory.metadata for memory in dataset.memories.values())
    assert {memory.id: memory.text for memory in read_dataset(path).memories.values()} == texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", '["Likes tea", "Lives in Rome"]'),
        ("m.json", '{"memories": ["Likes tea", "Lives in Rome"]}'),
        ("m.json", '[{"text": "Likes tea"}, {"text": "Lives in Rome"}]'),
        ("m.jsonl", '{"lesson": "Likes tea"}\n{"lesson": "Lives in Rome"}\n'),
        ("m.csv", "Content\nLikes tea\nLives in Rome\n"),
    ],
)
def test_texts_without_ids_are_memories(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    texts = {id_from_text("m", text): text for text in ("Likes tea", "Lives in Rome")}
    assert {memory.id: memory.text for memory in read_dataset(path).memories.values()} == texts
    dataset = read_dataset(files.write_json(tmp_path / "suite.json", files.suite()), path)
    assert {i: dataset.memories[i].text for i in texts} == texts


def test_text_without_an_id_among_memories_with_ids_is_left_out(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "m.json", [{"id": "u-1", "text": "Likes tea"}, {"text": "Lives in Rome"}, "x"])
    dataset = read_dataset(path)
    assert list(dataset.memories) == ["u-1"]
    assert dataset.ledger.counts["row_left_out"] == 2


def test_one_column_that_is_not_named_as_a_text_is_not_taken_for_memories(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no positive column"):
        read_dataset(files.write_json(tmp_path / "m.json", [{"query": "tea?"}, {"query": "Rome?"}]))


def test_fields_of_memories_become_metadata(tmp_path: Path) -> None:
    value = [{"id": "u-1", "memory": "Likes tea", "metadata": {"category": "taste"}, "user_id": "ada"}]
    memory = read_dataset(files.write_json(tmp_path / "m.json", value)).memories["u-1"]
    assert dict(memory.metadata) == {"category": "taste", "user_id": "ada", "source_id": "u-1"}


@pytest.mark.parametrize(
    "mark",
    [
        {"archived": True},
        {"deleted": "true"},
        {"isDeleted": 1},
        {"status": "Archived"},
        {"active": False},
        {"deleted_at": "2025-01-03"},
    ],
)
@pytest.mark.parametrize("kind", ["bullets", "list", "payload"])
def test_archived_and_deleted_memories_are_left_out(tmp_path: Path, mark: dict[str, Any], kind: str) -> None:
    old: dict[str, Any] = {"id": "a", "content": "Old.", **mark}
    new: dict[str, Any] = {"id": "b", "content": "New.", **dict.fromkeys(mark, None)}
    value: object = [old, new]
    if kind == "bullets":
        value = {"bullets": {"a": old, "b": new}}
    elif kind == "payload":
        value = [{"id": entry["id"], "payload": entry} for entry in (old, new)]
    dataset = read_dataset(files.write_json(tmp_path / "m.json", value))
    assert set(dataset.memories) == {"b"}
    assert dataset.ledger.counts["inactive_memory_skipped"] == 1


@pytest.mark.parametrize(
    "text",
    ["TURNO MANHÃ–NOITE", "Só de MANHÃ…", "IRMÃ’S", "CAFÉ… BAR", "café…”", "MAÇÃ\u00a0 VERDE", "ÜBER”", "„GRÜN“"],
)
def test_clean_capitals_before_a_dash_or_an_ellipsis_are_kept(tmp_path: Path, text: str) -> None:
    dataset = _rows(tmp_path, [{"query": text, "answer": f"{text} x"}])
    assert _answers(dataset) == {text: {f"{text} x"}}
    assert not dataset.ledger.counts


@pytest.mark.parametrize("text", ["Straße nach Köln", "à la carte", "東京", "„ja“ – nein", "PREÇO: 5 €", "Ö"])
def test_text_read_as_windows_1252_is_repaired(tmp_path: Path, text: str) -> None:
    broken = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode("utf-8"))
    dataset = _rows(tmp_path, [{"query": broken, "answer": "x"}])
    assert set(_answers(dataset)) == {text}
