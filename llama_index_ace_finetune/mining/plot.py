"""Plot of the histograms in a mining report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.utils.atomic import write_png


def plot_mining(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a PNG with the scores of positives, negatives, and candidates that each filter rejected.

    If the negatives score above the positives, most of them are probably unlabelled positives.
    """
    # Not pyplot, which has global state and may need a display.
    from matplotlib.figure import Figure

    histograms = report["histograms"]
    edges = np.array(histograms["edges"])
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, counts in (("positives", histograms["positives"]), ("negatives", histograms["kept"])):
        above.stairs(_fractions(counts), edges, label=f"{name} ({sum(counts):,})", fill=True, alpha=0.5)
    above.set_ylabel("fraction")
    above.legend()
    for name, counts in histograms["filtered"].items():
        below.stairs(counts, edges, label=f"{name} ({sum(counts):,})")
    below.set_ylabel("rejected candidates")
    below.set_xlabel(f"{histograms['scores']} with the query")
    if histograms["filtered"]:
        below.legend()
    write_png(figure, Path(path))


def _fractions(counts: list[int]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total for count in counts]
