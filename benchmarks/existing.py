"""Check that the folder of the retrieval sets exists."""

from __future__ import annotations

import sys
from pathlib import Path


def existing(folder: Path) -> Path:
    """Return `folder`; print an error and exit 2 if it does not exist."""
    if not folder.is_dir():
        print(f"There is no folder {str(folder)!r}; give --data.", file=sys.stderr)
        raise SystemExit(2)
    return folder
