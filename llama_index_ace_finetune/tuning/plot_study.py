"""Plot of the trials of a study, and of how much each setting matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_index_ace_finetune.tuning.study import Trial
from llama_index_ace_finetune.utils.atomic import write_png


def plot_study(trials: Sequence[Trial], importances: Mapping[str, float], path: Path) -> None:
    """Write a PNG: dev MRR@10 by trial with the best so far, and the importance of the settings."""
    # Figure without pyplot: no global state and no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    history, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    done = [
        (trial.number, trial.dev_mrr) for trial in trials if trial.state == "complete" and trial.dev_mrr is not None
    ]
    pruned = [
        (trial.number, trial.dev_mrr) for trial in trials if trial.state == "pruned" and trial.dev_mrr is not None
    ]
    if pruned:
        history.scatter(*zip(*pruned, strict=True), marker="x", color="tab:gray", label="pruned")
    if done:
        numbers, values = zip(*done, strict=True)
        history.scatter(numbers, values, color="tab:blue", label="trial")
        history.step(numbers, [max(values[: n + 1]) for n in range(len(values))], where="post", label="best so far")
    if done or pruned:
        history.legend()
    history.set_xlabel("trial (0 has the default settings)")
    history.set_ylabel("MRR@10 on dev")
    bars.barh(list(importances)[::-1], list(importances.values())[::-1], color="tab:blue")
    bars.set_xlabel("importance")
    if not importances:
        bars.set_title("too few trials", fontsize="medium")
    write_png(figure, path)
