"""Matplotlib figures as PNG files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; parents are created, and the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as handle:
            figure.savefig(handle, format="png", metadata={"Software": None})
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
