"""Output folders are complete or absent, and files of the user are kept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.utils import new_folder as module
from llama_index_ace_finetune.utils.disk_full import is_disk_full
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import (
    new_folder,
    place_folder,
    require_replaceable,
    require_writable,
    tidy,
)
from llama_index_ace_finetune.utils.ownership import MARK, added_by_user, read_mark, write_mark


def write(path: Path, *names: str, text: str = "ours", kind: str = "run", grows: tuple[str, ...] = ()) -> None:
    with new_folder(path, kind=kind, grows=grows) as aside:
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if Path(name).name != MARK)


def assert_no_leftovers(folder: Path) -> None:
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_folder_is_complete_or_absent(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), new_folder(tmp_path / "run", kind="run") as aside:
        (aside / "half").write_text("x", encoding="utf-8")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "run", "a", "deep/b")
    assert files(tmp_path / "run") == ["a", "deep/b"]
    assert_no_leftovers(tmp_path / "run")


@pytest.mark.parametrize("exchange", [True, False])
def test_replacement_keeps_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(module, "_exchange", lambda first, second: False)
    run = tmp_path / "run"
    write(run, "a", "model/w", "gone")
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    (run / "model" / "notes.txt").write_text("mine too", encoding="utf-8")
    (run / "link").symlink_to("notes.txt")
    (run / "empty").mkdir()
    (run / "new.txt").write_text("mine, under a name that the next output uses", encoding="utf-8")
    write(run, "a", "model/w", "new.txt", text="new")
    assert files(run) == ["a", "link", "model/notes.txt", "model/w", "new.txt", "new.txt.kept", "notes.txt"]
    assert (run / "a").read_text() == (run / "new.txt").read_text() == "new"
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "link").is_symlink()
    assert (run / "empty").is_dir()
    assert [path.as_posix() for path in added_by_user(run)] == [
        "empty", "link", "model/notes.txt", "new.txt.kept", "notes.txt",
    ]  # fmt: skip
    assert_no_leftovers(run)


def test_nested_outputs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with new_folder(run, kind="run") as aside:
        write(aside / "model", "w", kind="model")
        write(aside / "index", "meta.json", "collection/memories/storage.sqlite", kind="index",
              grows=("collection/memories",))  # fmt: skip
        (aside / "report.json").write_text("{}", encoding="utf-8")
    assert added_by_user(run) == []
    (run / "index" / "collection" / "memories" / "storage.sqlite-journal").write_text("x", encoding="utf-8")
    write(run / "model", "other weights", kind="model")
    assert added_by_user(run) == []
    # A copy of the model under another name belongs to the user.
    write(run / "elsewhere", "w", kind="model")
    (run / "elsewhere").rename(run / "model_backup")
    assert [str(path) for path in added_by_user(run)] == ["model_backup/.ace-finetune.json", "model_backup/w"]
    write(run, "report.json")
    assert files(run) == ["model_backup/w", "report.json"]


def test_foreign_collection_is_not_moved(tmp_path: Path) -> None:
    index = tmp_path / "index"
    write(index, "meta.json", "collection/memories/s", kind="index", grows=("collection/memories",))
    (index / "collection" / "customers").mkdir()
    (index / "collection" / "customers" / "s").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="holds a collection that this package did not write"):
        require_replaceable(index, kind="index")
    assert (index / "collection" / "customers" / "s").read_text() == "mine"


@pytest.mark.parametrize(
    "mark",
    [
        None, "", "{", "[]", "null", '{"writer": "someone"}', "[" * 100_000,
        '{"writer": "llama-index-ace-finetune", "kind": "run", "name": "run", "paths": [1], "grows": []}',
        '{"writer": "llama-index-ace-finetune", "kind": "model", "name": "run", "paths": [], "grows": []}',
    ],
)  # fmt: skip
def test_only_folders_with_a_valid_mark_are_replaced(tmp_path: Path, mark: str | None) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "meta.json").write_text("{}", encoding="utf-8")
    if mark is not None:
        (run / MARK).write_text(mark, encoding="utf-8")
    with pytest.raises(OutputExistsError, match="holds something that this package did not write"):
        write(run, "a")
    assert (run / "meta.json").read_text() == "{}"
    assert not (run / "a").exists()


def test_foreign_hidden_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".run.new").mkdir()
    (tmp_path / ".run.new" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="is needed as temporary folder"):
        write(tmp_path / "run", "a")
    assert (tmp_path / ".run.new" / "thesis.txt").read_text() == "mine"


def test_renamed_output_is_restored(tmp_path: Path) -> None:
    write(tmp_path / "run", "a", text="old")
    (tmp_path / "run").rename(tmp_path / ".run.old")
    write(tmp_path / "other", "a")
    (tmp_path / "other").rename(tmp_path / ".run.new")
    tidy(tmp_path / "run")
    assert (tmp_path / "run" / "a").read_text() == "old"
    assert_no_leftovers(tmp_path / "run")


def test_output_of_a_running_process_is_not_touched(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from llama_index_ace_finetune.utils.new_folder import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1]), kind='run') as aside:\n"
        "    (aside / 'a').write_text('theirs'); print('ready', flush=True); sys.stdin.read()\n"
    )
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"ready"
        tidy(run)
        assert (tmp_path / ".run.new" / "a").is_file()
        with pytest.raises(AceFinetuneError, match="Another process is writing"):
            write(run, "b")
        other.communicate()
    assert files(run) == ["a"]
    assert_no_leftovers(run)


def test_finished_folder_is_moved_into_place(tmp_path: Path) -> None:
    write(tmp_path / "work" / "model", "w", text="new", kind="model")
    write(tmp_path / "mine", "w", text="old", kind="model")
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    place_folder(tmp_path / "work" / "model", tmp_path / "mine", kind="model")
    assert files(tmp_path / "mine") == ["notes.txt", "w"]
    assert (tmp_path / "mine" / "w").read_text() == "new"
    mark = read_mark(tmp_path / "mine")
    assert mark is not None
    assert mark.name == "mine"
    assert list((tmp_path / "work").iterdir()) == []


def test_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    write(tmp_path / "run", "a")
    write(tmp_path / "run", "b")
    assert (tmp_path / "run").is_symlink()
    assert files(tmp_path / "disk" / "run") == ["b"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["run"]


def test_mark_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "run", "b", "a")
    content = json.loads((tmp_path / "run" / MARK).read_text(encoding="utf-8"))
    assert content["paths"] == ["a", "b"]
    assert (content["kind"], content["name"]) == ("run", "run")


# -------------------------------------------------------------------------------------------- unwritable outputs


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(AceFinetuneError, match=r"cannot be written: .*file' is not a folder"):
        require_writable(tmp_path / "file" / "deep" / "run")
    with pytest.raises(AceFinetuneError, match="is not a folder"):
        require_replaceable(tmp_path / "file" / "run", kind="run")


def test_parent_without_write_permission(tmp_path: Path) -> None:
    """Checked in a child that gives up root, since permissions do not apply to root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            require_writable(closed / "run")
            message = "no error"
        except AceFinetuneError as error:
            message = str(error)
        except BaseException as error:
            message = repr(error)
        os.write(writer, message.encode())
        os._exit(0)
    os.close(writer)
    message = os.read(reader, 4096).decode()
    os.close(reader)
    os.waitpid(child, 0)
    assert "cannot be written (Permission denied" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full does not exist")
def test_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    from llama_index_ace_finetune.utils.atomic import write_text

    (tmp_path / "pipe").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExistsError, match="is a device or a pipe"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(OutputExistsError, match="is a device or a pipe"):
        write_text(Path("/dev/full"), "x")


def test_temporary_file_of_a_killed_process_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    from llama_index_ace_finetune.utils.atomic import new_file, write_text

    (tmp_path / ".a.json.0123456789abcdef.tmp").write_text("half", encoding="utf-8")
    (tmp_path / ".b.json.0123456789abcdef.tmp").write_text("of another file", encoding="utf-8")
    with new_file(tmp_path / "a.json") as handle:
        handle.write(b"slow")
        write_text(tmp_path / "a.json", "quick")
        assert len(list(tmp_path.glob(".a.json.*"))) == 1
    assert (tmp_path / "a.json").read_text() == "slow"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.json.0123456789abcdef.tmp", "a.json"]


_FULL_DISK = """
import pathlib, resource, signal, sqlite3, sys
import numpy, torch
from safetensors.torch import save_file
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.new_folder import new_folder

def fill_database(path):
    connection = sqlite3.connect(path)
    connection.execute("pragma max_page_count = 9")
    connection.execute("create table t (x)")
    connection.execute("insert into t values (zeroblob(4000000))")

writers = {
    "numpy": lambda path: numpy.save(path, numpy.zeros(10**6)),
    "torch": lambda path: torch.save({"a": torch.zeros(10**6)}, path),
    "safetensors": lambda path: save_file({"a": torch.zeros(10**6)}, path),
    "sqlite": fill_database,
    "text": lambda path: path.write_text("x" * 10**7),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
for name, write in writers.items():
    try:
        with new_folder(pathlib.Path(sys.argv[1]), kind="run") as aside:
            write(aside / name)
    except AceFinetuneError as error:
        print(name, error)
"""


def test_full_disk_gives_one_sentence_and_leaves_no_files(tmp_path: Path) -> None:
    """Simulated by a limit on the file size."""
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["numpy", "torch", "safetensors", "sqlite", "text"]
    assert all("was not written, since the disk or the quota is full" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_reported_as_full_disk() -> None:
    assert not is_disk_full(OSError("some 3 requested"))
    assert not is_disk_full(ValueError("unexpected"))
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(wrapped)


def test_lock_is_per_output(tmp_path: Path) -> None:
    write_mark(tmp_path, kind="x", name="x")
    with locked(tmp_path / ".a.new.lock", output=tmp_path / "a"):
        write(tmp_path / "b", "c")
    assert files(tmp_path) == ["b/c"]
