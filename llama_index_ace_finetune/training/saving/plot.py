"""Plot of the training loss and dev MRR by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index_ace_finetune.utils.atomic import write_png


def plot_training(history: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Write a PNG of loss and dev MRR@10 by training step; return False without writing if there are no steps."""
    losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
    evaluations = [(row["step"], row["MRR@10"]) for row in history if "MRR@10" in row]
    if not losses:
        return False
    # Figure without pyplot: no global state and no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*losses, strict=True), color="tab:gray", label="loss (left)")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    if evaluations:
        other = axes.twinx()
        other.plot(*zip(*evaluations, strict=True), marker="o", color="tab:blue", label="MRR@10 on dev (right)")
        other.set_ylabel("MRR@10 on dev")
    figure.legend(loc="outside upper left", ncols=2)
    write_png(figure, path)
    return True
