"""Read the report of a run again, and write its page from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.html import render_html
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.evaluation.report.systems_table import systems_csv, systems_latex
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.atomic import write_json, write_text
from llama_index_ace_finetune.utils.content_errors import of_content
from llama_index_ace_finetune.utils.file_errors import Refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A report as JSON values, its file, and the HTML page beside it."""

    report: dict[str, Any]
    file: Path
    page: Path

    @property
    def verdict(self) -> str:
        """The sentence that says what to serve."""
        return str(self.report["verdict"]["sentence"])


def report(path: str | Path, *, title: str | None = None, table: str | Path | None = None) -> RunReport:
    """Return the report of a run folder, or of a `report.json`; its HTML page is written again.

    Args:
        path: run folder or report.
        title: a new title, which is kept in the report.
        table: file to write the table of systems to; its suffix says how: .csv or .tex.

    Raises:
        AceFinetuneError: for a report that is missing, corrupt or of another version, a table with another suffix, or a
            file that cannot be written.
    """
    written = {".csv": systems_csv, ".tex": systems_latex}
    if table is not None and Path(table).suffix not in written:
        raise AceFinetuneError(f"The table {str(table)!r} should end in .csv or .tex.")
    file = report_file(Path(path))
    content = read_report(file)
    page = file.with_suffix(".html")
    with refuse_corrupt_report(file):
        if title is not None:
            content["metadata"]["title"] = title
        html = render_html(content)
        rows = "" if table is None else written[Path(table).suffix](content)
    try:
        if title is not None:
            write_json(file, content)
        write_text(page, html)
        if table is not None:
            write_text(Path(table), rows)
    except OSError as error:
        raise AceFinetuneError(
            f"The page {str(page)!r} cannot be written ({error}); copy the report elsewhere."
        ) from error
    return RunReport(report=content, file=file, page=page)


def report_file(path: Path) -> Path:
    """Return the report of a run folder, or the report itself."""
    return RunFolder.open(path).report if path.is_dir() else path


@contextmanager
def refuse_corrupt_report(file: Path) -> Iterator[None]:
    """Raise AceFinetuneError if the block fails on the content of the report."""
    with of_content(file, Refusal("The report", "evaluate the model again")):
        yield
