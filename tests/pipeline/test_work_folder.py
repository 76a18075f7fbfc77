from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError
from llama_index_ace_finetune.pipeline.work_folder import tidy_work, work_folder


def break_off(output: Path, inputs: dict[str, int], *, resume: bool = False) -> list[str]:
    """Leave a file in the work folder and fail; return what was there at the start."""
    with contextlib.suppress(KeyboardInterrupt), work_folder(output, inputs=inputs, resume=resume) as folder:
        found = sorted(path.name for path in folder.iterdir())
        (folder / "half").write_text("done", encoding="utf-8")
        raise KeyboardInterrupt
    return found


def test_interrupted_work_is_kept_and_resumed(tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert break_off(output, {"seed": 1}) == ["work.json"]
    assert break_off(output, {"seed": 1}, resume=True) == ["half", "work.json"]
    assert break_off(output, {"seed": 1}) == ["work.json"]
    with work_folder(output, inputs={"seed": 1}, resume=True) as folder:
        assert (folder / "half").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), work_folder(tmp_path / "run", inputs={}, resume=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_other_inputs_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    break_off(tmp_path / "run", {"seed": 1})
    with (
        pytest.raises(AceFinetuneError, match="had other data or settings"),
        work_folder(tmp_path / "run", inputs={"seed": 2}, resume=True),
    ):
        pass
    assert (tmp_path / ".run.work" / "half").is_file()


def test_second_process_is_refused(tmp_path: Path) -> None:
    with (
        work_folder(tmp_path / "run", inputs={}, resume=False) as folder,
        pytest.raises(AceFinetuneError, match="Another process is writing"),
        work_folder(tmp_path / "run", inputs={}, resume=False),
    ):
        pass
    assert not folder.exists()


def test_foreign_folder_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / ".run.work").mkdir()
    (tmp_path / ".run.work" / "thesis.txt").write_text("mine", encoding="utf-8")
    with (
        pytest.raises(OutputExistsError, match="holds something else"),
        work_folder(tmp_path / "run", inputs={}, resume=False),
    ):
        pass
    assert (tmp_path / ".run.work" / "thesis.txt").is_file()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b"null", b"[" * 4000, b'{"inputs": ' + b"1" * 5000]
)
@pytest.mark.parametrize("resume", [False, True])
def test_damaged_mark_is_one_sentence(tmp_path: Path, content: bytes, resume: bool) -> None:
    (tmp_path / ".run.work").mkdir()
    (tmp_path / ".run.work" / "work.json").write_bytes(content)
    with (
        pytest.raises(OutputExistsError, match=r"work\.json is damaged; move it away"),
        work_folder(tmp_path / "run", inputs={}, resume=resume),
    ):
        pass
    assert (tmp_path / ".run.work" / "work.json").read_bytes() == content


def test_work_folder_of_a_killed_process_is_removed_once_the_output_is_whole(tmp_path: Path) -> None:
    break_off(tmp_path / "run", {"seed": 1})
    tidy_work(tmp_path / "run", inputs={"seed": 2})
    assert (tmp_path / ".run.work" / "half").is_file()
    tidy_work(tmp_path / "run", inputs={"seed": 1})
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with (
        pytest.raises(AceFinetuneError, match="cannot be written"),
        work_folder(tmp_path / "file" / "run", inputs={}, resume=False),
    ):
        pytest.fail("the work began")
