"""The wheel, installed into an empty environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llama_index_ace_finetune

PROJECT = Path(__file__).resolve().parent.parent
VERSION = llama_index_ace_finetune.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # As a release does it, in a copy: with the address of a repository.
    project = folder.parent / "project"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "demo-run", "site", "runs", "dist", "build")
    shutil.copytree(PROJECT, project, ignore=ignored)
    shutil.copytree(PROJECT / ".github", project / ".github")
    run(sys.executable, str(project / ".github" / "set_repository.py"), "https://github.com/some/fork")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(project))
    assert {path.suffix for path in folder.iterdir()} == {".whl", ".gz"}
    return next(folder.glob("*.whl"))


def run(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_holds_only_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "llama_index_ace_finetune" in tops
    package = PROJECT / "llama_index_ace_finetune"
    needed = [path for path in package.rglob("*") if path.suffix in (".py", ".j2", ".css") or path.name == "py.typed"]
    assert {str(path.relative_to(PROJECT)) for path in needed} <= names
    assert "llama_index_ace_finetune/demo_data/playbook_suite.json" in names


@pytest.mark.slow
def test_pypi_description_links_to_the_repository(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    text = archive.read(metadata).decode()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    assert all(link.startswith(("https://", "#")) for link in links)
    assert (
        "![The demo's last lines: a table of systems and the verdict](https://raw.githubusercontent.com/some/fork/main/"
        in text
    )
    assert "Project-URL: Issues, https://github.com/some/fork/issues" in text


@pytest.mark.slow
def test_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", str(PROJECT / "constraints.txt"), str(wheel))
    command = str(tmp_path / "venv" / "bin" / "ace-finetune")
    printed = run(command, "--help", cwd=tmp_path)
    assert "run" in printed
    assert "search" in printed
    assert run(command, "--version", cwd=tmp_path).strip() == VERSION
    # Every public name resolves with only the dependencies of the wheel.
    names = "import llama_index_ace_finetune as p; print(len([getattr(p, n) for n in p.__all__]))"
    assert int(run(python, "-c", names, cwd=tmp_path)) == len(llama_index_ace_finetune.__all__)
