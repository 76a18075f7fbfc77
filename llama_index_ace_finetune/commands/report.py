"""Show the report of a run again."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.html import render_html
from llama_index_ace_finetune.evaluation.report.report import read_report
from llama_index_ace_finetune.pipeline.summary import print_report, required_gain
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.console import show
from llama_index_ace_finetune.utils.of_content import of_content
from llama_index_ace_finetune.utils.refusal import Refusal


def report_file(path: Path) -> Path:
    """Return the report of a run folder, or the report itself."""
    return RunFolder.open(path).report if path.is_dir() else path


def show_report(path: Path, *, open_page: bool, require_gain: bool = False) -> int:
    """Print the table and the verdict, write the page anew from report.json, and open it if asked to.

    Returns the exit status: 1 where a gain is required and not confirmed, else 0.

    Raises:
        AceFinetuneError: for a report that is missing, corrupt or of another version, or a page that cannot be written.
    """
    file = report_file(path)
    report = read_report(file)
    page = file.with_suffix(".html")
    with of_content(file, Refusal("The report", "evaluate the model again")):
        html = render_html(report)
    try:
        write_text(page, html)
    except OSError as error:
        raise AceFinetuneError(
            f"The page {str(page)!r} cannot be written ({error}); copy the report elsewhere."
        ) from error
    with of_content(file, Refusal("The report", "evaluate the model again")):
        show(report, lambda screen: print_report(report, page, screen))
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        raise AceFinetuneError(f"No browser could be started; open {str(page)!r} yourself.")
    return required_gain(report) if require_gain else 0
