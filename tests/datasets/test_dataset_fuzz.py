"""Damaged files of every format give a dataset or a DatasetError, never another exception."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.errors import DatasetError

_BOUNDED = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

_DOCUMENTS: dict[str, Any] = {
    "suite": files.suite(),
    "inventory": files.inventory(),
    "bullets": files.BULLETS,
    "legacy": files.LEGACY,
    "schema_2": files.SCHEMA_2,
    "qa": files.QA,
    "pairs": files.PAIRS,
}

_PIECES = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from(
        [
            b'"',
            b"\\",
            b"{",
            b"[",
            b"}",
            b"]",
            b",",
            b"\t",
            b"\n",
            b"\r",
            b"\0",
            b"NaN",
            b"null",
            b"1e999",
            b"\\ud800",
            b"\xef\xbb\xbf",
        ]
    ),
)
_EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), _PIECES), min_size=1, max_size=4)


def _damage(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Replace a few bytes here and there."""
    for where, removed, put in edits:
        at = int(where * len(content))
        content = content[:at] + put + content[at + removed :]
    return content


def _reads_or_says_why(source: object) -> None:
    with contextlib.suppress(DatasetError):
        dataset = read_dataset(source)
        assert dataset.memories
        for query_id, grades in dataset.judgements.items():
            assert query_id in dataset.queries
            assert grades.keys() <= dataset.memories.keys()
        split_dataset(dataset)


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += _paths(inner, (*at, key))
    return found


def _replaced(value: Any, path: tuple[Any, ...], put: Any) -> Any:
    if not path:
        return put
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], put)
    return copy


@pytest.mark.parametrize("name", sorted(_DOCUMENTS))
@_BOUNDED
@given(data=st.data(), put=_VALUES)
def test_documents_with_a_replaced_value(tmp_path: Path, name: str, data: st.DataObject, put: Any) -> None:
    path = data.draw(st.sampled_from(_paths(_DOCUMENTS[name])))
    _reads_or_says_why(files.write_json(tmp_path / "d.json", _replaced(_DOCUMENTS[name], path, put)))


@pytest.mark.parametrize("name", sorted(_DOCUMENTS))
@_BOUNDED
@given(edits=_EDITS)
def test_documents_with_replaced_bytes(tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]]) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(_damage(json.dumps(_DOCUMENTS[name], indent=1).encode(), edits))
    _reads_or_says_why(path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
@_BOUNDED
@given(edits=_EDITS)
def test_beir_with_replaced_bytes(tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]]) -> None:
    folder = files.write_beir(tmp_path / "set")
    path = folder / name
    path.write_bytes(_damage(path.read_bytes(), edits))
    _reads_or_says_why(folder)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.csv.gz"])
@_BOUNDED
@given(edits=_EDITS)
def test_tables_with_replaced_bytes(tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]]) -> None:
    path = tmp_path / name
    if ".jsonl" in name:
        content = files.write_json_lines(path, files.PAIRS).read_bytes()
    else:
        mark = "\t" if ".tsv" in name else ","
        rows = [files.PAIRS[0].keys(), *(row.values() for row in files.PAIRS)]
        content = "".join(mark.join(row) + "\n" for row in rows).encode()
    path.write_bytes(_damage(gzip.compress(content) if name.endswith(".gz") else content, edits))
    _reads_or_says_why(path)


@_BOUNDED
@given(edits=_EDITS)
def test_parquet_with_replaced_bytes(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(files.PAIRS), path)
    path.write_bytes(_damage(path.read_bytes(), edits))
    _reads_or_says_why(path)


@_BOUNDED
@given(
    name=st.sampled_from(["d.json", "d.jsonl", "d.csv", "d.tsv", "d.parquet", "d.txt"]), content=st.binary(max_size=200)
)
def test_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    _reads_or_says_why(path)


_CELL: Callable[[], st.SearchStrategy[Any]] = lambda: st.one_of(_SCALARS, st.lists(st.text(max_size=3), max_size=2))  # noqa: E731


@_BOUNDED
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["query", "positive", "negative", "label", "query_id", "memory_id", "x"]), _CELL()
        ),
        min_size=1,
        max_size=3,
    )
)
def test_pairs_of_any_values(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    _reads_or_says_why(files.write_json_lines(tmp_path / "p.jsonl", rows))


@_BOUNDED
@given(
    texts=st.lists(st.text(max_size=6), min_size=1, max_size=3),
    ids=st.lists(st.sampled_from(["a", "b", " "]), min_size=3),
)
def test_nodes_and_mappings_of_any_values(texts: list[str], ids: list[str]) -> None:
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=text, id_=node_id) for text, node_id in zip(texts, ids, strict=False)]
    with contextlib.suppress(DatasetError):
        dataset = read_dataset(nodes, queries=dict.fromkeys(texts, ids))
        assert set(dataset.memories) <= set(ids)
