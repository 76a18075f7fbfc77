"""Compare runs query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.evaluation.report.compare_runs import compare_runs
from llama_index_ace_finetune.pipeline.report import report_file
from llama_index_ace_finetune.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComparison:
    """Runs on the test queries that they share.

    Attributes:
        queries: number of shared test queries.
        runs: per run its folder, title, system, base model, test queries and mean of each measure.
        differences_to_first: per measure and run the paired difference to the first run, with its adjusted p.
        spread: per measure the mean and standard deviation over the runs; empty if their systems, base models or test
            sets differ.
        varied: the seeds in which the runs differ, in the order of the runs, by what they are of.
        warnings: what makes the runs hard to compare.
    """

    queries: int
    runs: list[dict[str, Any]]
    differences_to_first: dict[str, dict[str, dict[str, Any]]]
    spread: dict[str, dict[str, Any]]
    varied: dict[str, list[int]]
    warnings: list[str]


def compare(runs: Sequence[str | Path], *, system: str | None = None) -> RunComparison:
    """Compare what runs serve on the test queries that they share, each with the first.

    Args:
        runs: two or more run folders, or `report.json` files.
        system: compare this system of every run; by default the one selected on dev.

    Raises:
        AceFinetuneError: for fewer than two runs, runs that share no query, or a run without that system.
    """
    reports = {str(path): report_file(Path(path)) for path in runs}
    seeds = {name: _seeds(RunFolder(path.parent)) for name, path in reports.items()}
    return RunComparison(**compare_runs(reports, system=system, seeds=seeds))


def _seeds(run: RunFolder) -> dict[str, int]:
    """Return the seeds of a run's stages; nothing for a report outside of a run folder."""
    return dict(run.read_manifest().get("seeds") or {}) if run.manifest.is_file() else {}
