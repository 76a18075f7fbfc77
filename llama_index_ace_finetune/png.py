"""Matplotlib figures as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_ace_finetune.utils.atomic import new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; parents are created, and the same figure gives the same bytes."""
    with new_file(path) as handle:
        figure.savefig(handle, format="png", metadata={"Software": None})
