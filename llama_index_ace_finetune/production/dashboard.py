"""The dashboard: a query log as one static HTML page, like the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from llama_index_ace_finetune.evaluation.report.html import with_policy
from llama_index_ace_finetune.evaluation.report.svg import NARROW, WIDE
from llama_index_ace_finetune.production.live_comparison import LiveComparison
from llama_index_ace_finetune.production.plots import credit_plot, volume_plot
from llama_index_ace_finetune.production.usage import Usage
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates


def render_dashboard(
    *, title: str, usage: Usage, comparisons: Sequence[LiveComparison], watched: Mapping[str, Any], date: str
) -> str:
    """Return the page: no scripts, no network, all texts escaped, and a Content-Security-Policy that enforces this.

    Args:
        title: name of the run.
        usage: of the log.
        comparisons: of the log, the latest last.
        watched: the values of a `Watch`.
        date: when it was made.
    """
    loaders = [
        PackageLoader("llama_index_ace_finetune.production", "templates"),
        PackageLoader("llama_index_ace_finetune.evaluation.report", "templates"),  # for report.css
    ]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    widths = (WIDE, NARROW)
    compared = [
        (found, [credit_plot(found, name=f"credit{number}", width=width) for width in widths])
        for number, found in enumerate(reversed(comparisons))
    ]
    volume = [volume_plot(usage.days, width=width) for width in widths]
    page = environment.get_template("dashboard.html.j2").render(
        title=title, usage=usage, compared=compared, watched=watched, date=date, volume=volume
    )
    return with_policy(replace_lone_surrogates(page))
