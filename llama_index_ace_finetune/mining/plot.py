"""The report's histograms as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.utils.atomic import write_png


def mining_picture(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a PNG of the scores of right answers, of the negatives, and of what each filter refused.

    Where the negatives lie to the right of the right answers, most of them are right answers that nobody labelled.
    """
    # Figures of their own, without pyplot: nothing global is touched, and no window system is needed.
    from matplotlib.figure import Figure

    histograms = report["histograms"]
    edges = np.array(histograms["edges"])
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, counts in (("right answers", histograms["positives"]), ("negatives", histograms["kept"])):
        above.stairs(_shares(counts), edges, label=f"{name} ({sum(counts):,})", fill=True, alpha=0.5)
    above.set_ylabel("share")
    above.legend()
    for name, counts in histograms["filtered"].items():
        below.stairs(counts, edges, label=f"{name} ({sum(counts):,})")
    below.set_ylabel("candidates refused")
    below.set_xlabel(f"{histograms['scores']} with the query")
    if histograms["filtered"]:
        below.legend()
    write_png(figure, Path(path))


def _shares(counts: list[int]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total for count in counts]
