"""Delimiter, quoting and empty columns of tables are detected from the content."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset


def _read(path: Path, text: str, encoding: str = "utf-8") -> RetrievalDataset:
    path.write_bytes(text.encode(encoding))
    return read_dataset(path)


def _pairs(dataset: RetrievalDataset) -> list[tuple[str, str]]:
    return [
        (query.text, dataset.memories[answer].text)
        for query in dataset.queries.values()
        for answer in sorted(dataset.relevant(query.id))
    ]


_TWO = [("how do I log in", "Use the card, not the key."), ("where is it hot", "On floor 2")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "tab"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_delimiter_is_detected(tmp_path: Path, mark: str, end: str, suffix: str) -> None:
    rows = [("Query", "Answer"), *_TWO]
    lines = [mark.join(f'"{cell}"' if mark in cell else cell for cell in row) for row in rows]
    dataset = _read(tmp_path / f"p.{suffix}", "\ufeff" + end.join(lines) + end)
    assert _pairs(dataset) == _TWO
    usual = "," if suffix == "csv" else "\t"
    assert ("delimiter_found" in dataset.ledger.counts) == (mark != usual)


@pytest.mark.parametrize("mark", [";", "\t", "|", "^"])
def test_sep_line_names_the_delimiter(tmp_path: Path, mark: str) -> None:
    dataset = _read(tmp_path / "p.csv", f"sep={mark}\r\nquery{mark}answer\r\na, b{mark}c\r\n")
    assert _pairs(dataset) == [("a, b", "c")]


def test_comma_in_a_query_does_not_delimit_a_semicolon_table(tmp_path: Path) -> None:
    dataset = _read(tmp_path / "p.csv", "query;answer;score, in all\nwhat, when;here, now;1\nwho, why;there, then;1\n")
    assert _pairs(dataset) == [("what, when", "here, now"), ("who, why", "there, then")]


@pytest.mark.parametrize(
    "rows",
    [
        ['where is it\tIn "the" drawer', '"Second point\tRestart', 'stop it"\tSend it', "how big\tFour"],
        ["where is it\tIn the drawer", '"Second?\tRestart', 'stop it\tSend it."', "how big\tFour"],
        ['5" disk\tOld', '"\tA quotation mark', "how big\tFour"],
        ['"exact words"\tquoted by the user', "how big\tFour"],
        ['a ""b"" c\tx', "how big\tFour"],
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotation_marks_are_kept_in_tab_separated_files(tmp_path: Path, rows: list[str], end: str) -> None:
    dataset = _read(tmp_path / "p.tsv", end.join(["query\tanswer", *rows]) + end)
    assert _pairs(dataset) == [tuple(row.split("\t")) for row in rows]


@pytest.mark.parametrize(
    ("body", "pair"),
    [
        ('"a\nb"\tc\n', ("a\nb", "c")),
        ('"a\tb"\tc\n', ("a\tb", "c")),
        ('"say ""hi"""\tc\n', ('say "hi"', "c")),
        ('"a"\t"c"\n"d"\t"e"\n', ("a", "c")),
    ],
)
def test_quoted_tab_separated_file(tmp_path: Path, body: str, pair: tuple[str, str]) -> None:
    dataset = _read(tmp_path / "p.tsv", "query\tanswer\n" + body + ("x\ty\n" if body.count("\n") == 1 else ""))
    assert _pairs(dataset)[0] == pair


def test_unmatched_quotation_mark_affects_only_its_row(tmp_path: Path) -> None:
    body = "".join(f'"question, {n}","answer, {n}"\n' for n in range(5))
    dataset = _read(tmp_path / "p.csv", f'query,answer\n{body}"size of a 5" disk,Old\nbroken,"half\n{body}')
    assert len(dataset.queries) == 7
    assert ("question, 4", "answer, 4") in _pairs(dataset)
    assert ('"size of a 5" disk', "Old") in _pairs(dataset)
    assert dataset.ledger.counts["quotes_kept"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "query,answer,,\na,b,,\nc,d,,\n",
        "query,answer,,\na,b\nc,d,,,\n",
        ",query,answer\n,a,b\n,c,d\n",
        "query;answer;;\na;b;;\nc;d;;\n",
        "query\tanswer\t\t\na\tb\t\t\nc\td\t\t\n",
    ],
)
def test_empty_columns_are_dropped(tmp_path: Path, text: str) -> None:
    dataset = _read(tmp_path / ("p.tsv" if "\t" in text else "p.csv"), text)
    assert _pairs(dataset) == [("a", "b"), ("c", "d")]
    assert set(dataset.ledger.counts) <= {"delimiter_found"}


def test_unnamed_column_of_numbers_is_noted(tmp_path: Path) -> None:
    dataset = _read(tmp_path / "p.csv", ",query,answer\n0,a,b\n1,c,d\n")
    assert _pairs(dataset) == [("a", "b"), ("c", "d")]
    assert dataset.ledger.counts == {"column_without_name_dropped": 1}


def test_cell_of_200000_characters_is_read(tmp_path: Path) -> None:
    dataset = _read(tmp_path / "p.csv", f"query,answer\nlong,{'x' * 200_000}\nshort,y\n")
    assert len(dataset.queries) == 2
    assert dataset.ledger.counts == {"over_long_memory": 1}


def test_many_unmatched_quotation_marks_take_linear_time(tmp_path: Path) -> None:
    rows = "".join(f'"open {n},x\n' for n in range(20_000))
    dataset = _read(tmp_path / "p.csv", f'query,answer\n"a, b",c\n{rows}')
    assert len(dataset.queries) >= 20_000
