"""The report as one self-contained page."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_PLOT_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH = 640, 34, 130


def render_html(report: dict[str, Any]) -> str:
    """Return the page: no script, no network, every text of the data escaped."""
    environment = Environment(
        loader=PackageLoader("llama_index_ace_finetune.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(report=report, plot=_plot(report["systems"], "MRR@10"))


def _plot(systems: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """Lay out the difference plot: a zero line, and per system a point with its interval, in pixels."""
    rows = [system for system in systems if system["difference_to_base"]]
    reach = (
        max([0.01] + [abs(row["difference_to_base"][measure][end]) for row in rows for end in ("low", "high")]) * 1.1
    )
    width = _PLOT_WIDTH - _LABEL_WIDTH

    def x(value: float) -> float:
        return float(round(_LABEL_WIDTH + width * (value + reach) / (2 * reach), 1))

    return {
        "measure": measure,
        "width": _PLOT_WIDTH,
        "height": _ROW_HEIGHT * len(rows) + 40,
        "zero": x(0),
        "axis_y": _ROW_HEIGHT * len(rows) + 14,
        "ticks": [{"x": x(value), "label": f"{value:+.2f}"} for value in (-reach / 1.1, 0.0, reach / 1.1)],
        "rows": [
            {
                "name": row["name"],
                "y": _ROW_HEIGHT * place + 20,
                "mean": row["difference_to_base"][measure]["mean"],
                "low": x(row["difference_to_base"][measure]["low"]),
                "high": x(row["difference_to_base"][measure]["high"]),
                "x": x(row["difference_to_base"][measure]["mean"]),
            }
            for place, row in enumerate(rows)
        ],
    }
