"""The plots of a live comparison and of the volume of queries, as SVG in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index_ace_finetune.evaluation.report.svg import GOOD, INK, LINE, MARK, WIDE, Plot, figure, to_svg
from llama_index_ace_finetune.production.live_comparison import LiveComparison

# Colours of the page's variables in a separate file, which has no page.
_COLOURS = "--ink: #1b1b1b; --soft: #5b5b5b; --line: #c8c8c8; --mark: #2563a8; --good: #1a7a3a; --bad: #b03030"


def credit_plot(found: LiveComparison, *, name: str = "credit", width: float = WIDE) -> Plot | None:
    """Plot the mean credit and its always-valid interval over the queries; None for fewer than two queries."""
    if len(found.series) < 2:
        return None
    intervals = [interval for _, interval in found.series]
    queries = [one.queries for one in intervals]
    with figure(3.0, width) as (made, axes):
        axes.axhline(0, color=INK, linewidth=1)
        axes.fill_between(
            queries, [one.low for one in intervals], [one.high for one in intervals],
            color=GOOD if found.winner else MARK, alpha=0.2, linewidth=0, step="post",
        )  # fmt: skip
        axes.plot(queries, [one.mean for one in intervals], color=GOOD if found.winner else MARK)
        axes.set_xlabel("queries, in the order of their feedback")
        axes.set_ylabel("credit: above 0, B is better")
        axes.grid(axis="y", color=LINE, alpha=0.6)
        return to_svg(made, name=name, alt=f"Mean credit with its interval over the queries. {found.sentence}")


def volume_plot(days: Sequence[tuple[str, int]], *, width: float = WIDE) -> Plot | None:
    """Plot the number of queries per day; None for fewer than two days."""
    if len(days) < 2:
        return None
    with figure(2.2, width) as (made, axes):
        axes.bar(range(len(days)), [count for _, count in days], color=MARK)
        step = -(-len(days) // (8 if width == WIDE else 3))
        axes.set_xticks(range(0, len(days), step), [day for day, _ in days[::step]])
        axes.set_ylabel("queries per day")
        axes.grid(axis="y", color=LINE, alpha=0.6)
        words = f"{days[0][1]:,} on {days[0][0]} to {days[-1][1]:,} on {days[-1][0]}"
        return to_svg(made, name="volume", alt=f"Queries per day: {words}; all counts are in the table.")


def svg_document(plot: Plot) -> str:
    """Return a plot as an SVG file."""
    style = f"<style>svg {{{_COLOURS}; background: white}}</style>"
    head, rest = str(plot.svg).split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}'
