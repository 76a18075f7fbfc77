"""The report of a mining run on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.picture import mining_picture
from llama_index_ace_finetune.utils.atomic import write_json

REPORT_NAME = "mining_report.json"
PICTURE_NAME = "mining_report.png"


def save_mining_report(report: Mapping[str, Any], folder: str | Path) -> None:
    """Write `mining_report.json` and `mining_report.png` into a folder; files of these names are replaced.

    Args:
        report: `HardNegativeMiner.report` after a run.
        folder: made if it is not there.

    Raises:
        AceFinetuneError: if nothing was mined yet, or the folder is a file.
    """
    folder = Path(folder)
    if not report:
        raise AceFinetuneError("There is no mining report to save; mine first.")
    if folder.exists() and not folder.is_dir():
        raise AceFinetuneError(f"The folder for the mining report, {str(folder)!r}, is a file; give a folder.")
    write_json(folder / REPORT_NAME, dict(report))
    mining_picture(report, folder / PICTURE_NAME)
