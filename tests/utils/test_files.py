"""Special, oversized and truncated files are refused immediately, with a one-sentence error."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typing_extensions import TypedDict

from llama_index_ace_finetune.errors import MAX_MESSAGE, AceFinetuneError, DatasetError, quoted, shortened
from llama_index_ace_finetune.utils.file_errors import Refusal, UnusableFileError
from llama_index_ace_finetune.utils.open_file import open_file, read_bytes
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import MAX_DEPTH, parse_json, read_json_file, read_json_object
from llama_index_ace_finetune.utils.read_yaml import read_yaml_file
from llama_index_ace_finetune.utils.safetensors_header import read_safetensors_header
from llama_index_ace_finetune.utils.validation import checked

REFUSAL = Refusal("The list", "write it again", DatasetError)


def _special_files(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.close()
    (folder / "to_pipe").symlink_to(folder / "pipe")
    return {
        "named pipe": folder / "pipe",
        "folder": folder / "folder",
        "symbolic links": folder / "loop",
        "socket": folder / "socket",
        "pipe": folder / "to_pipe",
        "device": Path("/dev/zero"),
        "does not exist": folder / "nothing",
        "null byte": Path("a\0b"),
    }


def test_special_files_are_refused_without_blocking(tmp_path: Path) -> None:
    for message, path in _special_files(tmp_path).items():
        start = time.process_time()
        for read in (
            lambda path: read_json_file(path, REFUSAL),
            lambda path: read_yaml_file(path, REFUSAL),
            lambda path: read_array_file(path, REFUSAL),
            lambda path: read_safetensors_header(path, REFUSAL),
        ):
            with pytest.raises(DatasetError, match=message):
                read(path)
        assert time.process_time() - start < 1


def test_pipe_of_process_substitution_is_read_once() -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (time.sleep(0.05), os.write(writing, b"{a: 1}"), os.close(writing)))
    writer.start()
    try:
        assert read_yaml_file(Path(f"/dev/fd/{reading}"), REFUSAL).value == {"a": 1}
        with pytest.raises(UnusableFileError, match="named pipe"):
            open_file(Path(f"/dev/fd/{reading}"))
    finally:
        writer.join()
        os.close(reading)


def test_size_is_checked_before_reading(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as handle:
        handle.truncate(2**40)
    with pytest.raises(UnusableFileError, match="too large"):
        read_bytes(large, limit=100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "line 1, column 7"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b"[" * 1_000_000, "nested"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "nested"),
        (b"[" + b"9" * 5000 + b"]", "5,000 digits"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
    ],
)
def test_invalid_json_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as raised:
        read_json_file(path, REFUSAL, unique_keys=True, finite=True)
    assert str(path) in str(raised.value)
    assert str(raised.value).endswith("; write it again.")


def test_brackets_in_strings_are_not_nesting() -> None:
    text = json.dumps(["[" * 500, 'a"[{\\' * 100, "\\", "]]"])
    assert parse_json(text) == json.loads(text)
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert read_error("[]") == "no error"


def read_error(text: str) -> str:
    try:
        parse_json(text)
    except ValueError as error:
        return str(error)
    return "no error"


def test_json_object_is_required(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("\ufeff[1]", encoding="utf-8")
    assert read_json_file(tmp_path / "list.json", REFUSAL) == [1]
    with pytest.raises(DatasetError, match="not a JSON object"):
        read_json_object(tmp_path / "list.json", REFUSAL)


def _billion_laughs(levels: int, width: int, merge: bool = False) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {{'<<': [{aliases}]}}" if merge else f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_billion_laughs(9, 9), "values"),
        (_billion_laughs(9, 9, merge=True), "values"),
        ("a: &a [*a]", "alias"),
        ("a: *b", "alias"),
        ("[" * 500 + "]" * 500, "nested"),
        ("\n".join(" " * depth + "a:" for depth in range(100)), "nested"),
        ("- " * 100 + "1", "nested"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ("a: " + "1:" * 3000 + "1", "digits"),
        ("a: !!timestamp x", "cannot be read"),
        ('a: !!int ""', "cannot be read"),
        ("a: !!bool x", "cannot be read"),
        ("a: !!python/object/apply:os.system [echo]", "cannot be read"),
        ("{[1]: 2}", "cannot be read"),
        ("a: 2024-99-99", "cannot be read"),
        ("\x07", "cannot be read"),
        ("# " + "a" * 300_000, "too large"),
        ("- a\n" * 60_000, "values"),
    ],
)
def test_invalid_yaml_is_refused_immediately(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(DatasetError, match=message) as raised:
        read_yaml_file(path, REFUSAL)
    assert time.process_time() - start < 1
    assert len(str(raised.value)) <= MAX_MESSAGE


def test_ordinary_aliases_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: *a\n", encoding="utf-8")
    content = read_yaml_file(path, REFUSAL)
    assert content.value == {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 2, "y": [1, 2]}, "c": {"x": 1, "y": [1, 2]}}
    assert content.tree is not None


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.zeros((0, 4), np.float32),
        np.array([b"ab", b"c"], "S17"),
        np.array([True, False]),
        np.array(["é", "b"]),
        np.arange(3, dtype=">i4"),
    ],
)
def test_arrays_written_by_numpy_are_read(array: np.ndarray, mapped: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    read = read_array_file(tmp_path / "a.npy", REFUSAL, mapped=mapped)
    assert read.dtype == array.dtype
    assert type(read) is np.ndarray
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:5],
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: content.replace(b"(3,)", b"(9,)"),
        lambda content: content.replace(b"'<f4'", b"'|O4'"),
        lambda content: content.replace(b"'<f4'", b"'<f3'"),
        lambda content: content.replace(b"(3,)", b"((((" * 20),
        lambda content: content.replace(b"'shape'", b"\x00shape'"),
        lambda content: content[:8] + b"\xff\xff" + content[10:],
        lambda content: b"\x80\x04K\x01.",
    ],
)
def test_damaged_arrays_are_refused(change: object, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3, dtype=np.float32))
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DatasetError, match="corrupt"):
        read_array_file(path, REFUSAL)


def test_array_of_other_type_or_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3, dtype=np.float32))
    with pytest.raises(DatasetError, match="float32"):
        read_array_file(tmp_path / "a.npy", REFUSAL, dtypes=dtypes(np.int64))
    with pytest.raises(DatasetError, match="1 dimensions instead of 2"):
        read_array_file(tmp_path / "a.npy", REFUSAL, dimensions=2)


def _safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1\2",
        struct.pack("<Q", 2**40) + b"{}",
        _safetensors(b"{"),
        _safetensors([]),
        _safetensors(b"[" * 5000),
        _safetensors({"a": []}),
        _safetensors({"a": {**_ENTRY, "dtype": []}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "dtype": "X"}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "shape": [3]}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "shape": [2.0]}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "shape": [True, 2]}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "data_offsets": []}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "data_offsets": [8, 0]}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "data_offsets": [0, "8"]}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "shape": [2] * 5000}}, bytes(8)),
        _safetensors({"a": {**_ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
        _safetensors({"a": _ENTRY, "b": _ENTRY}, bytes(8)),
        _safetensors({"a": _ENTRY}, bytes(7)),
        _safetensors({"a": _ENTRY}, bytes(9)),
        _safetensors(b'{"a": 1, "a": 2}'),
    ],
)
def test_damaged_safetensors_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DatasetError, match="corrupt"):
        read_safetensors_header(tmp_path / "model.safetensors", REFUSAL)


def test_header_that_claims_a_gigabyte_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", 2**30))
        handle.truncate(2**30 + 8)
    start = time.process_time()
    with pytest.raises(DatasetError, match="claims 1,073,741,824 bytes"):
        read_safetensors_header(path, REFUSAL)
    assert time.process_time() - start < 0.2


def test_safetensors_header_written_by_the_library_is_read(tmp_path: Path) -> None:
    arrays = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros(0, np.float16), "c": np.ones((), np.int64)}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "np"})
    header = read_safetensors_header(tmp_path / "model.safetensors", REFUSAL)
    assert {name: entry.shape for name, entry in header.items()} == {"a.weight": (2, 3), "b": (0,), "c": ()}


class _Row(TypedDict):
    name: str
    weights: tuple[float, float]


def test_error_names_the_invalid_field(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    assert checked({"name": "a", "weights": [1, 2.5]}, _Row, path, REFUSAL)["weights"] == (1.0, 2.5)
    for value in ([], {"name": "a"}, {"name": "a", "weights": [1]}, {"name": 3, "weights": [1, 10**400]}):
        with pytest.raises(DatasetError, match=r"row\.json"):
            checked(value, _Row, path, REFUSAL)
    with pytest.raises(DatasetError, match=r"weights\.1"):
        checked({"name": "a", "weights": [1, "x" * 9000]}, _Row, path, REFUSAL)


def test_long_messages_are_shortened_in_the_middle() -> None:
    message = str(AceFinetuneError("The file " + "x" * 9000 + " cannot be read; give another file."))
    assert len(message) <= MAX_MESSAGE
    assert message.startswith("The file xxx")
    assert message.endswith("; give another file.")
    assert shortened("short", 5) == "short"
    assert len(shortened("x" * 100, 20)) <= 20


def test_quoted_values_are_short() -> None:
    for value in ("x" * 9000, 10**5000, [[[[[[[[1]]]]]]]], {"a": "y" * 500}, float("nan"), None):
        assert len(quoted(value)) <= 80


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash is not installed")
def test_process_substitution_in_a_shell(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from llama_index_ace_finetune.utils.read_yaml import read_yaml_file as r;"
        "from llama_index_ace_finetune.utils.file_errors import Refusal;"
        "print(r(Path(sys.argv[1]), Refusal('a', 'b')).value)"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", f"'{sys.executable}' -c \"$0\" <(sleep 0.1; echo 'a: 1')", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "{'a': 1}"
