"""Make the README's pictures from a finished run: `python docs/make_pictures.py demo-run`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from llama_index_ace_finetune.commands.summary import print_summary

PICTURES = Path(__file__).resolve().parent / "pictures"
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
    with Path("/dev/null").open("w") as nowhere:
        screen = Console(record=True, width=92, file=nowhere, highlight=False, force_terminal=True)
        print_summary(report, screen)
    screen.save_svg(str(PICTURES / "demo.svg"), title="make demo", code_format=SVG)


def picture_of_report(run: Path, name: str, *, width: int, height: int, dark: bool = False) -> None:
    """Photograph the top of the report with headless Chromium, in a window of at least 500 pixels."""
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
                (run / "report.html").resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    finished = Path(sys.argv[1])
    picture_of_summary(finished)
    picture_of_report(finished, "report.png", width=1100, height=2050)
    picture_of_report(finished, "report-dark.png", width=1100, height=1000, dark=True)
    picture_of_report(finished, "report-phone.png", width=500, height=1000)
