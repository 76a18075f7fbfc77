"""Matplotlib figures as SVG that belongs to the page around it."""

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

# Drawn in these colours and written as the page's own, so that light and dark need one drawing.
INK, SOFT, LINE, MARK, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", MARK: "--mark", GOOD: "--good", BAD: "--bad"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11.0,
    # Names come from data: "$" in them is no formula.
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
_WIDTH = 9.0  # inches


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page: the SVG, and in words what it shows."""

    svg: Markup
    alt: str


@contextmanager
def figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of the report's width with one set of axes; `height` is in inches."""
    # Figures of their own, without pyplot: no window system is needed and nothing stays open.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # Text is set by the reader's fonts, so it does not matter which signs ours lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        made = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield made, made.subplots()


def picture(made: Figure, *, name: str, alt: str) -> Picture:
    """Return the figure as SVG for a page; `name` keeps its ids apart from those of other figures. Call in `figure`."""
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
    head = f'<svg role="img" aria-label="{escape(alt)}" '
    return Picture(Markup(text.replace("<svg ", head, 1)), alt)


def _styles_as_classes(text: str, name: str) -> str:
    """Return the SVG with its style attributes as classes, since the page's policy admits style elements only."""
    classes: dict[str, str] = {}

    def as_class(style: re.Match[str]) -> str:
        return f' class="{classes.setdefault(style[1], f"{name}-s{len(classes)}")}"'

    def in_tag(tag: re.Match[str]) -> str:
        return re.sub(r'\sstyle="([^"]*)"', as_class, tag[0])

    text = re.sub(r"<[a-z][^<>]*>", in_tag, text)
    rules = "".join(f".{one} {{{style}}}" for style, one in classes.items())
    return text.replace("</style>", f"{rules}</style>", 1)
