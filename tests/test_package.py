from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llama_index_ace_finetune

PACKAGE = Path(llama_index_ace_finetune.__file__).parent
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_import_is_light() -> None:
    code = (
        "import sys, llama_index_ace_finetune; "
        "print([name for name in ('torch', 'transformers', 'llama_index', 'qdrant_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom llama_index_ace_finetune.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout


def test_every_public_name_resolves() -> None:
    for name in llama_index_ace_finetune.__all__:
        assert getattr(llama_index_ace_finetune, name) is not None
    assert set(llama_index_ace_finetune.__all__) - {"__version__"} == set(llama_index_ace_finetune._HOMES)


@pytest.mark.slow  # imports everything anew; the import contract and `test_only_the_command_line_prints` say it too
def test_public_names_do_not_import_the_command_line() -> None:
    code = (
        "import sys, llama_index_ace_finetune as ace\n"
        "for name in ace.__all__: getattr(ace, name)\n"
        "print([name for name in sys.modules if name == 'typer' or name.startswith('llama_index_ace_finetune.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_command_line_prints() -> None:
    printing = {"rich", "typer"}
    found = []
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            calls = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if calls or any(name.split(".")[0] in printing for name in names):
                found.append(f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}")
    assert found == []


@pytest.mark.parametrize(
    "example", [*sorted(EXAMPLES.glob("*.py")), EXAMPLES / "demo.ipynb"], ids=lambda file: file.name
)
def test_examples_import_only_public_names(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    if example.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    ours = [
        node
        for node in imported
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(llama_index_ace_finetune.__name__)
    ]
    assert ours
    for node in ours:
        names = {alias.name for alias in node.names}
        if node.module != "llama_index_ace_finetune.errors":
            assert node.module == "llama_index_ace_finetune"
            assert names <= set(llama_index_ace_finetune.__all__)
    modules = [alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names]
    assert not any(name.startswith("llama_index_ace_finetune.") for name in modules)


def test_every_verb_is_a_file_and_every_command_is_a_verb() -> None:
    from typer.main import get_command

    from llama_index_ace_finetune import cli

    assert list(get_command(cli.app).commands) == list(cli.VERBS)  # type: ignore[attr-defined]
    assert all((PACKAGE / "cli" / f"{verb.replace('-', '_')}.py").is_file() for verb in cli.VERBS)


def test_no_file_names_an_address_until_a_release_sets_it(tmp_path: Path) -> None:
    project = PACKAGE.parent
    files = ["pyproject.toml", "CITATION.cff", "README.md", "mkdocs.yml", "Makefile", "CONTRIBUTING.md"]
    pages = [*(project / name for name in files), *(project / "docs").rglob("*.md"), *EXAMPLES.glob("*")]
    for page in pages:
        if page.is_file():
            assert "llama-index-ace-finetune/llama-index-ace-finetune" not in page.read_text(encoding="utf-8"), page
    for name in files[:2]:
        shutil.copy(project / name, tmp_path / name)
    script = [sys.executable, str(project / ".github" / "set_repository.py")]
    for url in ("http://github.com/some/fork", "https://github.com/some", "https://github.com/some/fork; rm x"):
        assert subprocess.run([*script, url, str(tmp_path)], capture_output=True, check=False).returncode == 1
    subprocess.run([*script, "https://github.com/some/fork.git", str(tmp_path)], check=True)
    settings = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    assert 'Issues = "https://github.com/some/fork/issues"' in settings
    assert settings.count("fancy-pypi-readme.substitutions]]") == 2
    assert "repository-code: https://github.com/some/fork\n" in (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    again = subprocess.run([*script, "https://github.com/some/fork", str(tmp_path)], capture_output=True, check=False)
    assert again.returncode == 1


def test_installation_is_from_a_checkout_or_a_wheel() -> None:
    """Before a release, no page says that a package index has the package by itself."""
    project = PACKAGE.parent
    for page in [project / "README.md", *(project / "docs").rglob("*.md"), *EXAMPLES.glob("*.py")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"pip install \"?llama-index-ace-finetune(?!\[(lora|onnx|openvino|tracing))", text), page
