"""SIGKILL a run at each of its file operations; the next command must find one complete output.

The runs are children of a process of their own, since to fork one that has imported torch takes far longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.pipeline.work_folder import work_folder
from llama_index_ace_finetune.utils import new_folder as module
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.new_folder import new_folder, tidy

_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "open", "shutil.rmtree", "os.truncate"}
_ENDLESS = 10**9
_QUICK = 13  # every 13th event

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is not available")


class _Killer:
    """Counts file events in a child process, and kills it before one of them."""

    def __init__(self) -> None:
        self.active, self.count, self.at = False, 0, _ENDLESS

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or event not in _EVENTS or (event == "open" and not _writes(arguments)):
            return
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = (*arguments, None, None, None)[:3]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


_killer = _Killer()  # made a hook by `main`, since a hook cannot be removed


def run_once(out: Path, version: str, *, resume: bool = False) -> None:
    """The file operations of `run`, without its stages."""
    tidy(out)
    with work_folder(out, inputs={"version": version}, resume=resume) as work:
        (work / "vectors").mkdir(exist_ok=True)
        (work / "vectors" / "a.npy").write_bytes(b"x" * 100)
        with new_folder(out, kind="run") as aside:
            with new_folder(aside / "model", kind="model") as model:
                (model / "weights").write_bytes(b"y" * 100)
            (aside / "report.json").write_text(version, encoding="utf-8")
            write_json(aside / "manifest.json", {"version": version})


def in_child(action: Callable[[], None], *, kill_at: int = _ENDLESS) -> tuple[str, int] | None:
    """Return the outcome of an action and its number of file events; None if it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _killer.active, _killer.count, _killer.at = True, 0, kill_at
        outcome = "ok"
        try:
            action()
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        _killer.active = False
        os.write(writer, json.dumps([outcome, _killer.count]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    return tuple(json.loads(content)) if content else None  # type: ignore[return-value]


def is_whole(out: Path, version: str) -> bool:
    with contextlib.suppress(OSError):
        return (
            json.loads((out / "manifest.json").read_text(encoding="utf-8"))["version"] == version
            and (out / "report.json").read_text(encoding="utf-8") == version
            and (out / "model" / "weights").read_bytes() == b"y" * 100
        )
    return False


def check_every(folder: Path, *, replaces: bool, step: int, exchange: bool = True) -> int:
    """Kill at every `step`-th event, check the output, repeat the command; return the number of kills."""
    options = {"replaces": replaces, "step": step, "exchange": exchange}
    command = [sys.executable, __file__, str(folder), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def main(folder: Path, *, replaces: bool, step: int, exchange: bool) -> int:
    sys.addaudithook(_killer)
    # A killed process loses no written data without fsync; only a power cut would.
    os.fsync = lambda fd: None
    if not exchange:
        module._exchange = lambda first, second: False
    out = folder / "run"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if replaces:
            run_once(out, "old")
            (out / "notes.txt").write_text("mine", encoding="utf-8")

    prepare()
    finished = in_child(lambda: run_once(out, "new"))
    assert finished is not None
    assert finished[0] == "ok"
    kills = 0
    for resume in (False, True):
        for point in range(0, finished[1], step):
            prepare()
            kills += in_child(lambda: run_once(out, "new"), kill_at=point) is None
            if not exchange:
                tidy(out)
            assert not replaces or is_whole(out, "old") or is_whole(out, "new"), f"lost at {point}"
            assert not out.exists() or is_whole(out, "old") or is_whole(out, "new"), f"incomplete at {point}"
            again = in_child(lambda resume=resume: run_once(out, "new", resume=resume))  # type: ignore[misc]
            assert again is not None
            assert again[0] == "ok", f"stuck at {point}: {again[0]}"
            assert is_whole(out, "new")
            assert not replaces or (out / "notes.txt").read_text(encoding="utf-8") == "mine"
            assert [path.name for path in folder.iterdir()] == ["run"], f"leftovers at {point}"
    return kills


@pytest.mark.parametrize("replaces", [False, True])
def test_kill_at_some_events(tmp_path: Path, replaces: bool) -> None:
    assert check_every(tmp_path / "place", replaces=replaces, step=_QUICK) > 5


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_kill_at_every_event(tmp_path: Path, replaces: bool) -> None:
    assert check_every(tmp_path / "place", replaces=replaces, step=1) > 100


@pytest.mark.parametrize("step", [_QUICK, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_where_folders_cannot_be_exchanged(tmp_path: Path, step: int) -> None:
    """The old output is renamed for a moment, and the next command restores it."""
    assert check_every(tmp_path / "place", replaces=True, step=step, exchange=False) > 5


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), **json.loads(sys.argv[2])))
