"""Make the pictures from a finished run: `python docs/make_pictures.py demo-run [demo.log]`.

The log is what `ace-finetune demo --out demo-run` printed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llama_index_ace_finetune.cli.summary import print_summary

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
WIDTH = 96
# Rich's own format loads a font from the web; this one uses what the reader's machine has.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
 line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def picture_of_summary(run: Path) -> None:
    """Draw the table and the verdict as the terminal shows them."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    picture_of_terminal("demo.svg", lambda screen: print_summary(report, screen), title="make demo")


def picture_of_help() -> None:
    """Draw `ace-finetune --help`."""
    done = subprocess.run(
        ["ace-finetune", "--help"],
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)},
        capture_output=True,
        text=True,
        check=True,
    )
    text = Text.from_ansi(done.stdout.strip("\n"))
    picture_of_terminal("help.svg", lambda screen: screen.print(text), title="ace-finetune --help")


def picture_of_run(log: Path) -> None:
    """Draw what a run printed."""
    text = log.read_text(encoding="utf-8").strip("\n")
    # Long sentences may be broken, the lines of the table may not.
    width = max([WIDTH, *(len(line) for line in text.splitlines() if line.startswith(("│", "┃")))])
    picture_of_terminal(
        "run.svg", lambda screen: screen.print(text, markup=False), title="ace-finetune demo", width=width
    )


def picture_of_terminal(name: str, show: Callable[[Console], object], *, title: str, width: int = WIDTH) -> None:
    """Draw what `show` prints."""
    with Path(os.devnull).open("w") as nowhere:
        screen = Console(record=True, width=width, file=nowhere, highlight=False, force_terminal=True)
        show(screen)
    screen.save_svg(str(PICTURES / name), title=title, code_format=SVG)


def picture_of_docs() -> None:
    """Photograph the front page of the documentation."""
    with tempfile.TemporaryDirectory() as site:
        build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", site]
        subprocess.run(build, cwd=DOCS.parent, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
        photograph(Path(site) / "index.html", "docs.png", width=1280, height=1000)


def photograph(page: Path, name: str, *, width: int, height: int, dark: bool = False) -> None:
    """Photograph the top of a page with headless Chromium, in a window of at least 500 pixels."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no chromium or google-chrome found")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                *(["--blink-settings=preferredColorScheme=0"] if dark else []),
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--screenshot={PICTURES / name}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    finished, *logs = (Path(argument) for argument in sys.argv[1:])
    picture_of_summary(finished)
    picture_of_help()
    for log in logs:
        picture_of_run(log)
    report = finished / "report.html"
    photograph(report, "report.png", width=1100, height=2050)
    photograph(report, "report-dark.png", width=1100, height=1000, dark=True)
    photograph(report, "report-phone.png", width=500, height=1000)
    picture_of_docs()
