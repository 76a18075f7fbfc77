"""Data that are not files, or that unpack to far more than their size, are refused at once."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.errors import DatasetError


def _gzipped(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(gzip.compress(content, 6))


def _parquet(path: Path) -> None:
    """A few hundred KB that claim a hundred million rows."""
    column = pa.array(["x"] * 1000).dictionary_encode()
    repeated = pa.chunked_array([column] * 40_000)
    pq.write_table(pa.table({"query": repeated, "answer": repeated}), path, compression="zstd")


BOMBS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "blank lines": ("a.jsonl.gz", _gzipped(b"\n" * 60_000_000), "blank lines in a row"),
    "blank lines of a table": ("a.csv.gz", _gzipped(b"\n" * 60_000_000), "blank lines in a row"),
    "blank lines, plain": ("a.jsonl", lambda path: path.write_bytes(b"\r\n" * 200_000), "blank lines in a row"),
    "one string": ("a.json.gz", _gzipped(b'"' + b"a" * 100_000_000 + b'"'), "unpacks to far more"),
    "one line": ("a.tsv.gz", _gzipped(b"\0" * 60_000_000), "unpacks to far more|over 16 MB"),
    "short rows": ("a.csv.gz", _gzipped(b"query,answer\n" + b"a,b\n" * 10_000_000), "unpacks to far more"),
    "rows without end": ("a.parquet", _parquet, "claims 40,000,000 rows"),
    "nesting": ("a.json", lambda path: path.write_text("[" * 1_000_000), "nested"),
    "nested line": ("a.jsonl", lambda path: path.write_text('{"query": ' + "[" * 1_000_000), "nested"),
    "integer": ("a.json", lambda path: path.write_text('[{"query": ' + "9" * 1_000_000 + "}]"), "digits"),
    "pipe": ("a.jsonl", os.mkfifo, "named pipe"),
    "pipe, JSON": ("a.json", os.mkfifo, "named pipe"),
    "pipe, Parquet": ("a.parquet", os.mkfifo, "named pipe"),
    "pipe, table": ("a.csv", os.mkfifo, "named pipe"),
    "device": ("a.json", lambda path: path.symlink_to("/dev/zero"), "a device"),
    "device, Parquet": ("a.parquet", lambda path: path.symlink_to("/dev/zero"), "a device"),
    "link in a circle": ("a.jsonl", lambda path: path.symlink_to(path), "there is no such file|cannot be read"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bomb_is_refused_at_once(case: str, tmp_path: Path) -> None:
    name, make, word = BOMBS[case]
    make(tmp_path / name)
    begun = time.process_time()
    with pytest.raises(DatasetError, match=word) as raised:
        read_dataset(tmp_path / name)
    assert time.process_time() - begun < 3
    assert len(str(raised.value)) < 500


def test_gzip_of_ordinary_text_is_read(tmp_path: Path) -> None:
    rows = "".join(f'{{"query": "query {number}", "answer": "answer {number}"}}\n' for number in range(20_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    assert len(read_dataset(tmp_path / "a.jsonl.gz").queries) == 20_000


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
@pytest.mark.parametrize(
    ("content", "read_as"),
    [
        ('[{"query": "a", "answer": "b"}, {"query": "c", "answer": "d"}]', "pairs"),
        ('{"query": "a", "answer": "b"}\n{"query": "c", "answer": "d"}', "pairs"),
        ("query,answer\na,b\nc,d", "pairs"),
        ("query\tanswer\na\tb\nc\td", "pairs"),
    ],
)
def test_process_substitution_is_read(content: str, read_as: str) -> None:
    program = (
        "import sys; from llama_index_ace_finetune.datasets.read_dataset import read_dataset;"
        "data = read_dataset(sys.argv[1]); print(len(data.queries), data.ledger.format)"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", f"'{sys.executable}' -c \"$0\" <(sleep 0.1; printf '%s\\n' \"$1\")", program, content],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.returncode) == (f"2 {read_as}", 0), done.stderr
