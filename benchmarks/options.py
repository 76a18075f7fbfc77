"""The command-line options of a benchmark over retrieval sets that can be resumed."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser_of_sets(description: str | None, *, sets: str, data_required: bool = False) -> argparse.ArgumentParser:
    """Return a parser of --data, --sets (comma-separated, `sets` by default), --check, --out and --kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=data_required)
    parser.add_argument("--sets", default=sets)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--kept", type=Path, help="file of the figures measured so far, to resume from after an interruption"
    )
    return parser
