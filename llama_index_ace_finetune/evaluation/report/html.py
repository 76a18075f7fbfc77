"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from llama_index_ace_finetune.evaluation.choosing.structures import LEG_NAMES
from llama_index_ace_finetune.evaluation.report.glossary import GLOSSARY
from llama_index_ace_finetune.evaluation.report.next_steps import next_steps, why_not_confirmed
from llama_index_ace_finetune.evaluation.report.plain_sentence import plain_sentence
from llama_index_ace_finetune.evaluation.report.plots import (
    frontier_plot,
    interval_plot,
    learning_plot,
    rank_change_plot,
    training_plot,
    weight_plot,
)
from llama_index_ace_finetune.evaluation.report.svg import NARROW, WIDE, Plot
from llama_index_ace_finetune.evaluation.report.systems_table import systems_csv, systems_latex
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

_MEASURE = "MRR@10"
_POLICY_PLACE = "<!-- policy -->"


def render_html(report: Mapping[str, Any]) -> str:
    """Return the page: no scripts, no network, all texts escaped, and a Content-Security-Policy that enforces this."""
    environment = Environment(
        loader=PackageLoader("llama_index_ace_finetune.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=_figure, signed=_signed, p_value=_p_value, mark=_mark, unbroken=_unbroken)
    template = environment.get_template("report.html.j2")
    dimensions: dict[str, list[Any]] = {}
    for part in report["slices"]:
        dimensions.setdefault(part["dimension"], []).append(part)
    page = template.render(
        report=report,
        plots=_plots(report, WIDE),
        narrow_plots=_plots(report, NARROW),
        dimensions=dimensions,
        measure=_MEASURE,
        served=report["serving"]["system"],
        plain=plain_sentence(report),
        not_confirmed=why_not_confirmed(report),
        fusion_weights=_fusion_weights(report["serving"]),
        steps=next_steps(report, report["metadata"].get("run") or "RUN"),
        glossary=GLOSSARY,
        csv=systems_csv(report),
        latex=systems_latex(report),
        main_systems=_main_systems(report),
    )
    return with_policy(page)


def _fusion_weights(serving: Mapping[str, Any]) -> str:
    """Return the legs of score fusion with their weights; "" if the system is fused by rank."""
    weights = (serving.get("fusion") or {}).get("weights") or {}
    return ", ".join(f"{LEG_NAMES.get(leg, leg)} {weight:.3g}" for leg, weight in weights.items())


def _main_systems(report: Mapping[str, Any]) -> list[Any]:
    """Return the systems of the main table: all but hybrids that are neither selected, nor served, nor the best."""
    verdict = report["verdict"]
    named = {verdict["system"]["name"], verdict["best_untuned"], report["serving"]["system"]}
    return [one for one in report["systems"] if one["kind"] != "hybrid" or one["name"] in named]


def with_policy(page: str) -> str:
    """Return the page with a policy that allows its style elements, by their hashes, and nothing else.

    There are no scripts and no requests. The policy replaces the comment `<!-- policy -->`.
    """
    styles = re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)
    hashes = sorted({base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles})
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    policy = f"default-src 'none'; style-src {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
    return page.replace(_POLICY_PLACE, f'<meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


def _plots(report: Mapping[str, Any], width: float) -> dict[str, Plot | None]:
    """Return the plots for a width in inches: one set for screens and paper, one for phones."""
    compared = [one for one in report["systems"] if one["difference_to_base"]]
    slices = report["slices"]
    return {
        "differences": interval_plot(
            [(one["name"], one["difference_to_base"][_MEASURE]) for one in compared],
            marks=[_mark(one["difference_to_base"][_MEASURE]) for one in compared],
            name="differences",
            what=f"Difference in {_MEASURE} to the base model",
            width=width,
        ),
        "movement": rank_change_plot(report["movement"], width=width),
        "slices": interval_plot(
            [(f"{one['dimension']}: {one['name']}", one["means"]["difference"]) for one in slices],
            name="slices",
            what=f"Difference in {_MEASURE}, {report['movement']['after']} against {report['movement']['before']}",
            width=width,
        ),
        "weights": weight_plot(report["fusion"], width=width),
        "speed": frontier_plot(report.get("choice"), cost="milliseconds", what="milliseconds per query", width=width),
        "storage": frontier_plot(report.get("choice"), cost="bytes_per_memory", what="bytes per memory", width=width),
        "training": training_plot(_history(report), width=width),
        "learning": learning_plot((report["learning_curve"] or {}).get("points") or (), width=width),
    }


def _history(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return report["training"].get("history") or ()


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _mark(difference: Mapping[str, Any]) -> str:
    """Return the class of a difference: "up" for a significant gain, "down" for a significant loss, else none.

    A difference without a p-value, as that of a slice, is not marked.
    """
    if "p_value" not in difference:
        return ""
    one = PairedDifference.from_dict(difference)
    return "up" if one.is_gain else "down" if one.is_loss else ""


def _unbroken(text: str) -> Markup:
    """Return a text, escaped, in which no line breaks inside "a -> b", "a +- b", "3 of 4", an interval or a p-value."""
    whole = r"\S+ (?:-&gt;|\+-) \S+|\S+ to [+-][\d.]+\d|p (?:&lt;|=|&lt;=) [\d.]*\d|[\d,]+ of [\d,]+"
    return Markup(re.sub(whole, r'<span class="num">\g<0></span>', str(escape(text))))


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"
