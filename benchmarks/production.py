"""After the swap: what the query log costs, what a loop of serving, harvest and training gains, and false alarms.

    python benchmarks/production.py --data SETS [--check] [--only PART ...] [--out FILE]

SETS is a folder with the retrieval sets nl2bash, msvc_errors, ace and locomo. `--check` runs less. Exits with status 1
if a figure misses its target. The parts are the functions in `PARTS`, each of which adds its tables to the report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import library_first  # noqa: F401
from findings import Findings
from machine import machine
from production_drift import measure_watch
from production_live import measure_live
from production_log import measure_logging
from production_loop import simulate_loop


@dataclass(frozen=True)
class Settings:
    data: Path
    check: bool


PARTS: Final[dict[str, Callable[[Settings, Findings], None]]] = {
    "logging": measure_logging,
    "loop": simulate_loop,
    "live": measure_live,
    "drift": measure_watch,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of retrieval sets")
    parser.add_argument("--check", action="store_true", help="fewer of everything")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--out", type=Path, help="write the tables as markdown")
    options = parser.parse_args()
    findings = Findings()
    for name in options.only:
        PARTS[name](Settings(options.data, options.check), findings)
    versions = machine("llama-index-core", "numpy", "torch")
    return findings.close("After the swap", versions, options.out)


if __name__ == "__main__":
    sys.exit(main())
