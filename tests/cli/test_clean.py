"""`doctor --clean` removes what killed commands left, and nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.pipeline.work_folder import work_folder
from llama_index_ace_finetune.utils.atomic import new_file
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.ownership import write_mark


def leave_litter(folder: Path) -> None:
    """What a run leaves that was killed."""
    (folder / ".run.new").mkdir(parents=True)
    (folder / ".run.new" / "weights").write_bytes(b"x" * 1000)
    write_mark(folder / ".run.new", kind="run", name="run", empty=True)
    with contextlib.suppress(KeyboardInterrupt), work_folder(folder / "run", inputs={}, resume=False) as work:
        (work / "vectors").write_bytes(b"x" * 500)
        raise KeyboardInterrupt
    (folder / ".run.new.lock").touch()
    (folder / ".run.work.lock").touch()
    (folder / ".report.json.0123456789abcdef.tmp").write_bytes(b"x" * 70)


def test_leftovers_are_removed_and_counted(tmp_path: Path) -> None:
    leave_litter(tmp_path / "deep" / "runs")
    with new_folder(tmp_path / "deep" / "runs" / "run", kind="run") as aside:
        (aside / "a").write_text("whole", encoding="utf-8")
    leave_litter(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--clean", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert {Path(one["path"]).name for one in printed["removed"]} >= {
        ".run.new", ".run.work", ".report.json.0123456789abcdef.tmp",
    }  # fmt: skip
    assert printed["bytes"] == sum(one["bytes"] for one in printed["removed"]) > 2000
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep" / "runs").iterdir()] == ["run"]
    again = CliRunner().invoke(app, ["doctor", "--clean", str(tmp_path)])
    assert again.stdout.startswith("0 removed below")


def test_files_in_use_and_foreign_files_are_kept(tmp_path: Path) -> None:
    for name in (".thesis.new", ".thesis.work", ".git.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / ".notes.work.lock").write_text("mine", encoding="utf-8")
    with (
        work_folder(tmp_path / "run", inputs={}, resume=False),
        new_folder(tmp_path / "run", kind="run") as aside,
        new_file(tmp_path / "report.json") as handle,
    ):
        (aside / "a").write_text("half", encoding="utf-8")
        handle.write(b"half")
        before = sorted(tmp_path.rglob("*"))
        done = CliRunner().invoke(app, ["doctor", "--clean", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "run" / "a").is_file()


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--clean", str(tmp_path / "no")])
    assert done.exit_code == 2
    assert "There is no folder" in done.stderr
