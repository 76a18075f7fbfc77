"""The folder of the retrieval sets, or a sentence that it is not there."""

from __future__ import annotations

import sys
from pathlib import Path


def existing(folder: Path) -> Path:
    """Return `folder`; where there is none, say so and exit 2."""
    if not folder.is_dir():
        print(f"There is no folder {str(folder)!r}; give --data.", file=sys.stderr)
        raise SystemExit(2)
    return folder
