"""The notebook runs from top to bottom, on a small part of the demo data."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "demo.ipynb"


@pytest.mark.slow
def test_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("EVERY = 2 ", "EVERY = 6 ").replace(
            "budget_minutes=4.0", "budget_minutes=0.5"
        )
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "lexical overlap" in printed
    assert "ships " in printed
    assert "held-out queries" in printed or "KEEP THE BASE MODEL" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "notebook-run" / "report.html").is_file()


def test_settings_replaced_by_the_test_exist() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text.count("EVERY = 2 ") == 1
    assert text.count("budget_minutes=4.0") == 1
