"""A bad row is left out and named; a bad file gives one sentence with its path and, if there is one, the line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.text_files import MAX_LINE_BYTES
from llama_index_ace_finetune.errors import DatasetError


def _message(source: Any, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read_dataset(source, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


_LEFT_OUT = ("row_left_out", "judgement_of_unknown_id_left_out")


def _reason(source: Any) -> tuple[str, bool]:
    """Return the message about the only error in a source, and whether all of it was refused."""
    try:
        dataset = read_dataset(source)
    except DatasetError as error:
        return str(error), True
    # The judgements of a text that is left out are left out too.
    found = sorted((e for e in dataset.ledger.entries if e.rule in _LEFT_OUT), key=lambda e: _LEFT_OUT.index(e.rule))
    assert dataset.ledger.counts[found[0].rule] == 1
    assert any(found[0].detail in line for line in dataset.ledger.lines())
    return f"{found[0].where}: {found[0].detail}", False


def _edited(value: Any, edit: Callable[[Any], object]) -> Any:
    copy = json.loads(json.dumps(value))
    edit(copy)
    return copy


def _case(key: str, value: object) -> Callable[[Any], object]:
    return lambda suite: suite["test_cases"][1].update({key: value})


_JSON = {
    "suite without memory_id": (files.suite(), lambda v: v["test_cases"][0].pop("memory_id"), "'memory_id' is missing"),
    "suite without content": (files.suite(), lambda v: v["test_cases"][0].pop("content"), "'content' is missing"),
    "suite without a query": (
        files.suite(),
        lambda v: v["test_cases"][0]["generated_queries"][1].pop("query"),
        "'query' is missing",
    ),
    "suite with a text that is a number": (files.suite(), _case("content", 3), "text is a number"),
    "suite with an id that is a list": (files.suite(), _case("memory_id", [1]), "id is a list"),
    "suite with an id that is a boolean": (files.suite(), _case("memory_id", True), "id is a boolean"),
    "suite with an id that is a fraction": (files.suite(), _case("memory_id", 1.5), "id is a number"),
    "suite with an empty id": (files.suite(), _case("memory_id", ""), "id is empty"),
    "suite with queries that are a string": (files.suite(), _case("generated_queries", "x"), "must be a list"),
    "suite with a case that is a string": (files.suite(), lambda v: v["test_cases"].append("x"), "must be an object"),
    "suite with cases that are an object": (files.suite(), lambda v: v.update(test_cases={"a": 1}), "must be a list"),
    "suite with one id in two cases": (files.suite(), _case("memory_id", "11"), "has two test cases"),
    "suite without a case": (files.suite(), lambda v: v.update(test_cases=[]), "no memory with a text"),
    "inventory without id": (files.inventory(), lambda v: v[1].pop("id"), "no 'id'"),
    "inventory without text": (files.inventory(), lambda v: v[1]["payload"].pop("lesson"), "no 'lesson'"),
    "inventory with a payload that is a list": (
        files.inventory(),
        lambda v: v[1].update(payload=[]),
        "must be an object",
    ),
    "inventory with one id and two texts": (files.inventory(), lambda v: v[2].update(id=11), "two different texts"),
    "playbook without text": (files.BULLETS, lambda v: v["bullets"]["s-1"].pop("content"), "no 'content'"),
    "playbook with a bullet that is a string": (
        files.BULLETS,
        lambda v: v["bullets"].update(x="y"),
        "must be an object",
    ),
    "playbook with bullets that are a string": (files.BULLETS, lambda v: v.update(bullets="y"), "object or a list"),
    "playbook with an empty id": (files.BULLETS, lambda v: v["bullets"]["s-1"].update(id=""), "id is empty"),
    "skillbook with an insight that is a list": (
        files.SCHEMA_2,
        lambda v: v["skills"]["k-1"].update(insight=[]),
        "insight is a list",
    ),
    "skillbook with keywords that are numbers": (
        files.SCHEMA_2,
        lambda v: v["skills"]["k-1"].update(keywords=[1]),
        "list of strings",
    ),
    "sections without id": (files.LEGACY, lambda v: v["sections"]["tools"][0].pop("id"), "no 'id'"),
    "qa without queries": (files.QA, lambda v: v.pop("queries"), "'queries' is missing"),
    "qa with an unknown memory": (
        files.QA,
        lambda v: v["relevant_docs"]["q1"].append("d9"),
        "no memory 'd9'",
    ),
    "qa with an unknown query": (files.QA, lambda v: v["relevant_docs"].update(q9=["d1"]), "no query 'q9'"),
    "qa with a number for an id": (files.QA, lambda v: v["relevant_docs"]["q1"].append(3), "is not a string"),
    "qa with a list of texts": (files.QA, lambda v: v.update(corpus=["x"]), "must be an object"),
    "qa with an empty id": (files.QA, lambda v: v["corpus"].update({"": "x"}), "id is empty"),
    "pairs without a positive": (files.PAIRS, lambda v: v[1].pop("positive"), "is null"),
    "pairs with a number for a text": (files.PAIRS, lambda v: v[1].update(query=3), "is a number"),
    "pairs with null for a text": (files.PAIRS, lambda v: v[1].update(positive=None), "is null"),
    "pairs with a row that is a list": (files.PAIRS, lambda v: v.append([]), "must be an object"),
    "unknown object": ({"a": 1}, lambda v: None, "not of a known format"),
    "a string": ("text", lambda v: None, "not of a known format"),
}


_WHOLE_DOCUMENTS = {
    "skillbook with an insight that is a list",  # its other entry is inactive
    "skillbook with keywords that are numbers",
    "suite with cases that are an object",
    "suite without a case",
    "playbook with bullets that are a string",
    "qa without queries",
    "qa with a list of texts",
    "unknown object",
    "a string",
}


@pytest.mark.parametrize("name", sorted(_JSON))
def test_bad_json_values(tmp_path: Path, name: str) -> None:
    value, edit, part = _JSON[name]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(_edited(value, edit), indent=1), encoding="utf-8")
    message, refused = _reason(path)
    assert refused == (name in _WHOLE_DOCUMENTS)
    assert part in message
    if part != "no memory with a text":
        assert message.startswith(f"{path}, line ")


@pytest.mark.parametrize(
    "value",
    [
        {"test_cases": [{"memory_id": 1}, {"memory_id": 2}]},
        [{"id": 1, "payload": {"lesson": 3}}],
        {"bullets": {"a": {"id": "a"}}},
        [{"query": "a", "answer": None}, {"query": None, "answer": "b"}],
        {"queries": {"q": "a"}, "corpus": {"": "b"}, "relevant_docs": {}},
    ],
)
def test_file_without_a_usable_row_is_refused_with_the_first_error(tmp_path: Path, value: object) -> None:
    path = files.write_json(tmp_path / "data.json", value)
    message = _message(path)
    assert message.startswith(f"{path}, line 1")
    assert "must be" in message or "is missing" in message or "is empty" in message or "no 'content'" in message


def test_error_names_the_line_of_the_bad_value(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(_edited(files.suite(), _case("content", 3)), indent=1), encoding="utf-8")
    number = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if '"content": 3' in line)
    assert f"line {number} (test_cases[1].content)" in _reason(path)[0]


_BEIR = {
    "corpus without _id": ("corpus.jsonl", '{"text": "x"}\n', 1, "'_id' is missing"),
    "corpus without text": ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": "d2"}\n', 2, "'text' is missing"),
    "corpus with a text that is a list": ("corpus.jsonl", '{"_id": "d1", "text": ["x"]}\n', 1, "text is a list"),
    "corpus with a title that is a number": ("corpus.jsonl", '{"_id": "d1", "text": "x", "title": 3}\n', 1, "title is"),
    "corpus with one id and two texts": (
        "corpus.jsonl",
        '{"_id": "d1", "text": "x"}\n\n{"_id": "d1", "text": "y"}\n',
        3,
        "two different texts",
    ),
    "corpus with an empty id": ("corpus.jsonl", '{"_id": "", "text": "x"}\n', 1, "id is empty"),
    "corpus with an id that is no Unicode": (
        "corpus.jsonl",
        '{"_id": "\\ud800", "text": "x"}\n',
        1,
        "not valid Unicode",
    ),
    "corpus line that is a list": ("corpus.jsonl", "[1]\n", 1, "expected a JSON object"),
    "corpus line that is no JSON": ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": \n', 2, "invalid JSON"),
    "corpus line with a repeated key": ("corpus.jsonl", '{"_id": "d1", "_id": "d2", "text": "x"}\n', 1, "twice"),
    "corpus with a huge number": ("corpus.jsonl", '{"_id": ' + "9" * 5000 + ', "text": "x"}\n', 1, "cannot be read"),
    "query with one id and two texts": (
        "queries.jsonl",
        '{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "y"}\n',
        2,
        "two different texts",
    ),
    "qrels with two columns": ("qrels.tsv", "q1\td1\n", 1, "2 column(s)"),
    "qrels with spaces": ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", 2, "1 column(s)"),
    "qrels with a word for a score": ("qrels.tsv", "q1\td1\t1\nq2\td2\tgood\n", 2, "is not a number"),
    "qrels with NaN": ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tNaN\n", 2, "not a finite number"),
    "qrels with infinity": ("qrels.tsv", "q1\td1\tinf\n", 1, "not a finite number"),
    "qrels to an unknown memory": ("qrels.tsv", "q1\td9\t1\n", 1, "no memory 'd9'"),
    "qrels to an unknown query": ("qrels.tsv", "q1\td1\t1\r\nq9\td1\t1\r\n", 2, "no query 'q9'"),
}


@pytest.mark.parametrize("name", sorted(_BEIR))
def test_bad_beir_files(tmp_path: Path, name: str) -> None:
    file, content, line, part = _BEIR[name]
    folder = files.write_beir(tmp_path / "set")
    (folder / file).write_bytes(content.encode())
    message, refused = _reason(folder)
    assert part in message
    assert f"{folder / file}, line {line}" in message
    assert refused == (content.count("\n") == 1 + ("query-id" in content))


@pytest.mark.parametrize("file", ["queries.jsonl", "qrels.tsv"])
def test_beir_folder_without_a_file(tmp_path: Path, file: str) -> None:
    folder = files.write_beir(tmp_path / "set")
    (folder / file).unlink()
    assert file in _message(folder)


_TABLES = {
    "no query column": ("a,positive\nx,y\n", 0, "no query column; the columns are a, positive"),
    "no positive column": ("query,b\nx,y\n", 0, "no positive column; the columns are b"),
    "a short row": ("query,positive\nx,y\nz\n", 3, "is null"),
    "a long row": ("query,positive\nx,y,z\na,b\n", 2, "3 cell(s)"),
    "an open quote": ('query,positive\nx,"y\nz\n', 3, "is null"),
    "two columns of one name": ("query,query,positive\nx,y,z\n", 1, "same name"),
    "a label that is a word": ("query,positive,label\nx,y,good\na,b,1\n", 2, "is not a number"),
    "a label that is NaN": ("query,positive,label\nx,y,nan\na,b,1\n", 2, "not a finite number"),
    "an empty id": ("query,positive,query_id\nx,y,\na,b,1\n", 2, "id is empty"),
    "one id for two texts": ("query,positive,query_id\na,y,1\nb,y,1\n", 3, "two different texts"),
}
_WHOLE_TABLES = {"no query column", "no positive column", "two columns of one name"}


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("name", sorted(_TABLES))
def test_bad_tables(tmp_path: Path, name: str, suffix: str) -> None:
    content, line, part = _TABLES[name]
    path = tmp_path / f"p.{suffix}"
    path.write_text(content if suffix == "csv" else content.replace(",", "\t"))
    message, refused = _reason(path)
    assert message.startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert part in message
    assert refused == (name in _WHOLE_TABLES)


def test_bad_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 no parquet")
    assert "Parquet file is damaged" in _message(path)
    parquet.write_table(pyarrow.table({"query": ["a"], "number": ["b"]}), path)
    assert "the columns are number" in _message(path)
    parquet.write_table(pyarrow.table({"query": ["a", "b"], "positive": ["c", None]}), path)
    message, refused = _reason(path)
    assert not refused
    assert "row 2" in message
    assert "is null" in message
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "Parquet file is damaged" in _message(path)


def test_dataset_dict_asks_for_a_split() -> None:
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(files.PAIRS)})
    assert "choose one of its splits (train)" in _message(both)


_WHOLE_FILES = ["suite.json", "qa.json", "playbook.json", "inventory.json", "p.jsonl", "p.csv", "p.tsv"]


def _write(folder: Path, name: str) -> Path:
    values = {
        "suite.json": files.suite(),
        "qa.json": files.QA,
        "playbook.json": files.BULLETS,
        "inventory.json": files.inventory(),
    }
    path = folder / name
    if name in values:
        return files.write_json(path, values[name])
    if name == "p.jsonl":
        return files.write_json_lines(path, files.PAIRS)
    mark = "," if name.endswith("csv") else "\t"
    path.write_text("".join(mark.join(r) + "\n" for r in [files.PAIRS[0].keys(), *(r.values() for r in files.PAIRS)]))
    return path


@pytest.mark.parametrize("name", _WHOLE_FILES)
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    path.write_bytes(path.read_bytes().replace(b"a", b"\xe9", 1))
    assert f"{path}, line 1: the text is not UTF-8" in _message(path)


@pytest.mark.parametrize("name", _WHOLE_FILES)
def test_utf16_is_named(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    path.write_bytes(path.read_text().encode("utf-16"))
    assert "the file is UTF-16" in _message(path)


@pytest.mark.parametrize("name", _WHOLE_FILES)
def test_byte_order_mark_and_crlf_change_nothing(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    plain = read_dataset(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    marked = read_dataset(path)
    assert (marked.memories, marked.queries, marked.judgements) == (plain.memories, plain.queries, plain.judgements)
    assert marked.ledger.counts == plain.ledger.counts


@pytest.mark.parametrize("name", _WHOLE_FILES)
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = _message(path)
    assert str(path) in message
    assert "empty" in message


@pytest.mark.parametrize("name", _WHOLE_FILES)
def test_truncated_gzip(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed)
    assert read_dataset(path).memories
    path.write_bytes(packed[:-9])
    assert "gzip file is cut off or damaged" in _message(path)
    path.write_bytes(packed[:12] + b"\xff\xff\xff\xff" + packed[16:])
    assert "gzip file is cut off or damaged" in _message(path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_truncated_gzip_in_a_beir_folder(tmp_path: Path, name: str) -> None:
    folder = files.write_beir(tmp_path / "set")
    path = folder / name
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])
    message = _message(folder)
    assert str(path) in message
    assert "gzip file is cut off" in message


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.tsv"])
def test_single_line_of_50_megabytes_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"query": "' + b"x" * 50_000_000)
    assert MAX_LINE_BYTES < 50_000_000
    assert f"{path}, line 1: the line is over 16 MB" in _message(path)


def test_single_line_of_50_megabytes_is_read_in_a_json_document(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "i.json", [{"id": 1, "content": "x" * 50_000_000}]))
    assert dataset.ledger.counts == {"over_long_memory": 1}


@pytest.mark.parametrize("name", ["suite.json", "p.jsonl"])
def test_deeply_nested_json(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[" * 200_000)
    message = _message(path)
    assert "nested more than" in message or "invalid JSON" in message
    path.write_text('{"test_cases": ' + '{"a":' * 100_000 + "1" + "}" * 100_001)
    assert str(path) in _message(path)


def test_id_zero_is_kept(tmp_path: Path) -> None:
    value = {"test_cases": [{"memory_id": 0, "content": "a", "generated_queries": [{"query": "b"}]}]}
    dataset = read_dataset(files.write_json(tmp_path / "s.json", value))
    assert dataset.memories["0"].metadata["source_id"] == 0
    assert dataset.judgements == {"0-0": {"0": 1.0}}


def test_missing_paths(tmp_path: Path) -> None:
    assert "no such file" in _message(tmp_path / "absent.json")
    assert "a BEIR folder has corpus.jsonl" in _message(tmp_path)
    assert "no such file" in _message(_write(tmp_path, "suite.json"), memories=tmp_path / "absent.json")
    assert "cannot be read" in _message("a\0b") or "no such file" in _message("a\0b")
    assert "not understood" in _message(42)
    assert "not understood" in _message([1, 2])


def test_two_suites_in_one_folder(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", files.suite())
    files.write_json(tmp_path / "b.json", files.suite())
    assert "a.json and b.json" in _message(tmp_path)


@pytest.mark.parametrize(
    ("queries", "part"),
    [
        ({"q": "d9"}, "there is no memory 'd9'"),
        ({"q": 1.5}, "id or a list of ids"),
        ({3: "11"}, "is a number"),
        (["q"], "a mapping"),
    ],
)
def test_bad_query_mappings(tmp_path: Path, queries: Any, part: str) -> None:
    assert part in _message(_write(tmp_path, "inventory.json"), queries=queries)
    assert "grade is not a number" in _message(_write(tmp_path, "inventory.json"), queries={"q": {"11": "x"}})


def test_objects_that_are_not_nodes() -> None:
    from llama_index.core.schema import TextNode

    assert "nodes ([1]): expected a LlamaIndex node" in _message([TextNode(text="a"), "b"])
    assert "two different texts" in _message([TextNode(text="a", id_="n"), TextNode(text="b", id_="n")])
