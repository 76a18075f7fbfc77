"""The plots of the report, from its JSON values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index_ace_finetune.evaluation.report.choice import frontier
from llama_index_ace_finetune.evaluation.report.svg import (
    BAD,
    GOOD,
    INK,
    LINE,
    MARK,
    SOFT,
    WIDE,
    Plot,
    figure,
    to_svg,
)

_ROW, _TALL_ROW = 0.36, 0.48  # inches; a tall row has a label of two lines
_STYLES = ((MARK, "-", "o"), (SOFT, "--", "s"), (GOOD, ":", "^"))


def interval_plot(
    rows: Sequence[tuple[str, Mapping[str, float]]],
    *,
    name: str,
    what: str,
    marks: Sequence[str] = (),
    width: float = WIDE,
) -> Plot | None:
    """Plot a mean with its interval per row around a zero line; None if there are no rows.

    Args:
        rows: label, and `mean`, `low` and `high`.
        name: of the figure.
        what: the plotted quantity, for the axis label and the alternative text.
        marks: "up", "down" or "" per row: a significant gain, a significant loss, or neither; none by default.
        width: of the figure in inches.
    """
    if not rows:
        return None
    with figure((_ROW if width == WIDE else _TALL_ROW) * len(rows) + 0.9, width) as (made, axes):
        axes.axvline(0, color=INK, linewidth=1)
        for place, (_, one) in enumerate(rows):
            mark = marks[place] if marks else ""
            colour = {"up": GOOD, "down": BAD}.get(mark, SOFT)
            axes.plot([one["low"], one["high"]], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            # Filled if significant, so that it does not depend on colour only.
            axes.plot([one["mean"]], [place], "o", markersize=8, color=colour, fillstyle="full" if mark else "none")
        axes.set_yticks(range(len(rows)), [_lines(label, width) for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}" if abs(value) > 1e-9 else "0")
        axes.grid(axis="x", alpha=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(_wrapped(what, width))
        words = "; ".join(
            f"{label} {one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})" for label, one in rows
        )
        return to_svg(made, name=name, alt=f"{what}, with 95 percent intervals: {words}.")


def rank_change_plot(movement: Mapping[str, Any], *, width: float = WIDE) -> Plot:
    """Plot the matrix of rank changes: queries by rank before and after."""
    buckets, counts = movement["buckets"], movement["counts"]
    total = max(1, sum(map(sum, counts)))
    rising = sum(sum(row[:place]) for place, row in enumerate(counts))
    falling = sum(sum(row[place + 1 :]) for place, row in enumerate(counts))
    with figure(3.6, width) as (made, axes):
        for before, row in enumerate(counts):
            for after, count in enumerate(row):
                colour = GOOD if after < before else BAD if after > before else SOFT
                fraction = (count / total) ** 0.5
                axes.add_patch(_cell(after, before, colour, 0.75 * fraction))
                axes.text(after, before, str(count) if count else "·", ha="center", va="center", color=INK)
        axes.set_xticks(range(len(buckets)), [_lines(label, width) for label in buckets])
        axes.set_yticks(range(len(buckets)), [_lines(label, width) for label in buckets])
        axes.set_xlim(-0.5, len(buckets) - 0.5)
        axes.set_ylim(len(buckets) - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.set_xlabel(_wrapped(f"rank of the relevant document by {_short(movement['after'])}", width))
        axes.set_ylabel(f"by {_short(movement['before'])}")
        alt = (
            f"Rank of the first relevant document by {movement['before']} against {movement['after']}: {rising} "
            f"queries moved up to a better range of ranks, {falling} down to a worse one; all counts are in the table."
        )
        return to_svg(made, name="movement", alt=alt)


def weight_plot(fusion: Mapping[str, Mapping[str, Any]], *, width: float = WIDE) -> Plot | None:
    """Plot dev MRR@10 by the weight of the dense leg; None if dev was too small to tune weights."""
    labels = {"tuned": "tuned + BM25, RRF", "base": "base + BM25, RRF", "convex": "tuned + BM25, convex"}
    curves = {name: fusion[name] for name in labels if fusion[name]["dev_curve"]}
    if not curves:
        return None
    with figure(3.0, width) as (made, axes):
        for (name, choice), (colour, line, marker) in zip(curves.items(), _STYLES, strict=False):
            weights = [float(weight) for weight in choice["dev_curve"]]
            values = list(choice["dev_curve"].values())
            axes.plot(weights, values, line, marker=marker, markersize=4, color=colour, label=labels[name])
            taken = choice["weights"][0]
            axes.plot([taken], [values[weights.index(taken)]], marker, markersize=11, color=colour, fillstyle="none")
        axes.set_xlabel(_wrapped("weight of the dense leg; the ring marks the selected weight", width))
        axes.set_ylabel("MRR@10 on dev")
        axes.grid(alpha=0.6)
        axes.legend()
        words = "; ".join(f"{labels[name]}: {choice['reason']}" for name, choice in curves.items())
        return to_svg(made, name="weights", alt=f"MRR@10 on dev by the weight of the dense leg. {words}.")


def frontier_plot(choice: Mapping[str, Any] | None, *, cost: str, what: str, width: float = WIDE) -> Plot | None:
    """Plot dev MRR@10 of the systems that can be served by what they cost; None if fewer than two have that cost.

    Args:
        choice: the choice of a report.
        cost: key of the cost.
        what: the cost, for the axis label and the alternative text.
        width: of the figure in inches.
    """
    known = [one for one in (choice or {}).get("candidates", ()) if one[cost] is not None]
    if len(known) < 2 or not choice:
        return None
    best = frontier(known, cost)
    with figure(3.4, width=width) as (made, axes):
        axes.plot([one[cost] for one in known], [one["mrr"] for one in known], "o", color=SOFT, fillstyle="none")
        axes.plot([one[cost] for one in best], [one["mrr"] for one in best], "-o", color=MARK, drawstyle="steps-post")
        for one in known:
            if one["name"] == choice["system"]:
                axes.plot(
                    [one[cost]], [one["mrr"]], "o", markersize=13, color=GOOD, fillstyle="none", markeredgewidth=2
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(f"{what}; the line is the best for its cost, the ring is the selected system")
        axes.set_ylabel("MRR@10 on dev")
        axes.grid(alpha=0.6)
        words = "; ".join(f"{one['name']} {one['mrr']:.3f} at {one[cost]:.3g}" for one in best)
        return to_svg(made, name=cost, alt=f"MRR@10 on dev by {what}. The best for their cost: {words}.")


def training_plot(history: Sequence[Mapping[str, Any]], *, width: float = WIDE) -> Plot | None:
    """Plot loss and dev MRR@10 by training step; None if both have fewer than two points."""
    scores = [(row["step"], row["MRR@10"]) for row in history if "MRR@10" in row]
    losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
    if len(scores) < 2 and len(losses) < 2:
        return None
    with figure(2.8, width) as (made, axes):
        words = []
        if len(scores) > 1:
            axes.plot(*zip(*scores, strict=True), marker="o", markersize=4, color=MARK, label="MRR@10 on dev (left)")
            axes.set_ylabel("MRR@10 on dev")
            words.append(f"MRR@10 on dev went from {scores[0][1]:.3f} to {scores[-1][1]:.3f}")
        if len(losses) > 1:
            other = axes.twinx()
            other.plot(*zip(*losses, strict=True), "--", color=SOFT, linewidth=1.2, label="loss (right)")
            other.set_ylabel("loss")
            other.set_ylim(bottom=0)
            words.append(f"the loss from {losses[0][1]:.3f} to {losses[-1][1]:.3f}")
        axes.set_xlabel("training step")
        axes.grid(axis="y", color=LINE, alpha=0.6)
        made.legend(loc="outside upper left", ncols=2)
        return to_svg(made, name="training", alt=f"Over {history[-1]['step']} steps {' and '.join(words)}.")


def learning_plot(points: Sequence[Mapping[str, Any]], *, width: float = WIDE) -> Plot | None:
    """Plot the learning curve; None with fewer than two training sizes."""
    if len(points) < 2:
        return None
    with figure(2.8, width) as (made, axes):
        sizes, means = [point["queries"] for point in points], [point["mean"] for point in points]
        lows, highs = [point["low"] for point in points], [point["high"] for point in points]
        axes.axhline(0, color=INK, linewidth=1)
        axes.fill_between(sizes, lows, highs, color=MARK, alpha=0.2, linewidth=0)
        axes.plot(sizes, means, marker="o", color=MARK)
        axes.set_xlabel("training queries")
        axes.set_ylabel("difference in MRR@10")
        axes.grid(alpha=0.6)
        words = "; ".join(f"{point['queries']} queries {point['mean']:+.3f}" for point in points)
        return to_svg(made, name="learning", alt=f"Difference in MRR@10 to the base by training queries: {words}.")


def _cell(column: int, row: int, colour: str, opacity: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, facecolor=colour, alpha=opacity, linewidth=0)


def _lines(label: str, width: float) -> str:
    """A label, shortened; in a narrow figure in two lines."""
    short = _short(label)
    return short if width == WIDE else "\n".join(textwrap.wrap(short, max(6, -(-len(short) // 2) + 3))[:2])


def _wrapped(label: str, width: float) -> str:
    """The label of an axis, in several lines in a narrow figure."""
    return label if width == WIDE else "\n".join(textwrap.wrap(label, 36))


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
