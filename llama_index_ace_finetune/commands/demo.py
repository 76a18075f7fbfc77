"""The whole pipeline on the playbook that comes with the package."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.pipeline.run import run_pipeline
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.utils.console import notes

SUITE = "playbook_suite.json"


def demo_suite() -> Path:
    """Return the demo's data: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "demo_data", package.parent / "examples" / "data"):
        if (folder / SUITE).is_file():
            return folder / SUITE
    raise DatasetError(f"The demo's data {SUITE!r} is not installed; install the package again.")


def run_demo(out: Path, *, command: str) -> None:
    """Run the pipeline and say how to go on."""
    run_pipeline(RunSettings(data=demo_suite(), out=out, command=command))
    notes().print(f'\ntry     ace-finetune search {out} "users logged out every hour"', markup=False)
