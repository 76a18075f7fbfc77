"""The dataset that comes with the package."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.errors import DatasetError

SUITE = "playbook_suite.json"


def demo_suite() -> Path:
    """Return the demo's dataset: inside an installed package, or in `examples/data` of a source tree.

    Raises:
        DatasetError: if it is not installed.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "demo_data", package.parent / "examples" / "data"):
        if (folder / SUITE).is_file():
            return folder / SUITE
    raise DatasetError(f"The demo's data {SUITE!r} is not installed; install the package again.")
