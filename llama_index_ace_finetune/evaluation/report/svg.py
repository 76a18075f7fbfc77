"""Matplotlib figures as SVG that follows the style of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours that become CSS variables of the page, so one SVG serves light and dark.
INK, SOFT, LINE, MARK, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", MARK: "--mark", GOOD: "--good", BAD: "--bad"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11.0,
    # Names come from data: "$" in them does not start a formula.
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "legend.frameon": False,
}
WIDE, NARROW = 9.0, 4.4  # inches: screens and paper, phones


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as SVG, with its alternative text."""

    svg: Markup
    alt: str


@contextmanager
def figure(height: float, width: float = WIDE) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one set of axes; height and width are in inches."""
    # Without pyplot: no display is needed and no figure stays open.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # Text is rendered with the reader's fonts, so glyphs that matplotlib's font lacks do not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        made = Figure(figsize=(width, height), layout="constrained")
        yield made, made.subplots()


def to_svg(made: Figure, *, name: str, alt: str) -> Plot:
    """Return the figure as SVG; `name` prefixes its ids, so that they are unique on the page. Call within `figure`."""
    narrow = made.get_figwidth() < WIDE
    name = f"{name}-narrow" if narrow else name
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    FigureCanvasSVG(made).print_svg(  # type: ignore[no-untyped-call]
        buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\sid="([^"]+)"', rf' id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = _styles_as_classes(text, name)
    head = f'<svg class="{"narrow" if narrow else "wide"}" role="img" aria-label="{escape(alt)}" '
    return Plot(Markup(text.replace("<svg ", head, 1)), alt)


def _styles_as_classes(text: str, name: str) -> str:
    """Replace style attributes by classes, since the Content-Security-Policy only allows style elements."""
    classes: dict[str, str] = {}

    def as_class(style: re.Match[str]) -> str:
        return f' class="{classes.setdefault(style[1], f"{name}-s{len(classes)}")}"'

    def in_tag(tag: re.Match[str]) -> str:
        return re.sub(r'\sstyle="([^"]*)"', as_class, tag[0])

    text = re.sub(r"<[a-z][^<>]*>", in_tag, text)
    rules = "".join(f".{one} {{{style}}}" for style, one in classes.items())
    return text.replace("</style>", f"{rules}</style>", 1)
