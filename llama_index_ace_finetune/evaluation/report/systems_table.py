"""The table of systems as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

_MEASURES = ("Success@1", "Success@5", "MRR@10", "nDCG@10")
_DIFFERENCE = "MRR@10"
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def systems_csv(report: Mapping[str, Any]) -> str:
    """Return the table as CSV: measures, the difference to the base model with its 95% interval, p and p (Holm).

    A name that a spreadsheet would take for a formula begins with an apostrophe.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["system", *_MEASURES, "difference", "low", "high", "p", "p_holm", "wins", "ties", "losses"])
    for system in report["systems"]:
        name = system["name"]
        found = system["difference_to_base"].get(_DIFFERENCE) or {}
        keys = ("mean", "low", "high", "p_value", "p_holm", "wins", "ties", "losses")
        figures = [found.get(key, "") for key in keys]
        writer.writerow(
            [
                f"'{name}" if name[:1] in "=+-@\t\r" else name,
                *(system["means"][measure] for measure in _MEASURES),
                *(round(one, 6) if isinstance(one, float) else one for one in figures),
            ]
        )
    return file.getvalue()


def systems_latex(report: Mapping[str, Any]) -> str:
    """Return the table in LaTeX, for the package booktabs; the served system is set in bold."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(_MEASURES)}rr}}",
        r"\toprule",
        " & ".join(["System", *_MEASURES, rf"$\Delta$ {_DIFFERENCE} (95\% interval)", "$p$"]) + r" \\",
        r"\midrule",
    ]
    for system in report["systems"]:
        name = str(system["name"]).translate(_LATEX)
        served = system["name"] == report["serving"]["system"]
        found = system["difference_to_base"].get(_DIFFERENCE)
        difference = f"${found['mean']:+.3f}$ [${found['low']:+.3f}$, ${found['high']:+.3f}$]" if found else "reference"
        p = "" if not found else "$<$ .001" if found["p_value"] < 0.001 else f"{found['p_value']:.3f}"
        cells = [
            rf"\textbf{{{name}}}" if served else name,
            *(f"{system['means'][measure]:.3f}" for measure in _MEASURES),
            difference,
            p,
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
