"""Open a page in headless Chromium at a given width, and inspect it with an injected script."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
# All elements wider than the page, except inside scrollable regions.
_LOOK = """
<script>
window.addEventListener("load", async () => {
  const width = document.documentElement.clientWidth;
  // What an svg draws beyond its view box is clipped, so of its parts only texts count.
  const outside = [...document.querySelectorAll("body *")].filter(one => !one.closest(".scroll, .skip, pre")
    && (!one.closest("svg") || ["svg", "text"].includes(one.tagName))
    && one.getBoundingClientRect().right > width + 1).map(one => one.tagName + " " + one.textContent.slice(0, 60));
  const result = {width, scrollWidth: document.documentElement.scrollWidth, outside, violations: null,
    scrolling: [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth + 1)
      .map(one => one.getAttribute("aria-label")),
    text: document.body.innerText.length, dark: getComputedStyle(document.body).backgroundColor};
  if (window.axe) {
    const found = await axe.run({resultTypes: ["violations"]});
    result.violations = found.violations.map(one => ({id: one.id, impact: one.impact, help: one.help,
      nodes: one.nodes.slice(0, 3).map(node => node.html.slice(0, 200))}));
  }
  parent.postMessage(JSON.stringify(result), "*");
});
</script>
"""
_FRAME = """<!DOCTYPE html><html lang="en"><title>frame</title>
<style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe title="page" src="page.html" width="{width}" height="{height}"></iframe><pre id="seen"></pre>
<script>addEventListener("message", event => document.getElementById("seen").textContent = event.data)</script></html>
"""


@dataclass(frozen=True)
class Seen:
    """Findings on a page.

    Console errors, sizes in pixels, axe-core's violations (None without axe-core), labels of the regions that have to
    be scrolled sideways, the background colour.
    """

    errors: list[str]
    width: int
    scroll_width: int
    outside: list[str]
    violations: list[dict[str, Any]] | None
    scrolling: list[str]
    background: str
    picture: bytes


def axe_source() -> str | None:
    """The source of axe-core, if the package `axe-core-python` is installed."""
    spec = importlib.util.find_spec("axe_core_python")
    file = Path(spec.origin).parent / "axe.min.js" if spec and spec.origin else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else None


def look_at(page: Path, *, width: int, height: int = 900, dark: bool = False) -> Seen:
    """Open the page in a frame of that width, which may be narrower than any window."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, axe = page.read_text(encoding="utf-8"), axe_source()
        # Before the page's security policy, which allows no scripts.
        script = f"<script>{axe}</script>{_LOOK}" if axe else _LOOK
        (folder / "page.html").write_text(source.replace("<head>", f"<head>{script}", 1), encoding="utf-8")
        frame = folder / "frame.html"
        frame.write_text(_FRAME.format(width=width, height=height), encoding="utf-8")
        command = [
            CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},{height}",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []), "--virtual-time-budget=20000",
        ]  # fmt: skip
        shot = folder / "shot.png"
        done = _run([*command, f"--screenshot={shot}", "--dump-dom", frame.as_uri()])
        found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        result = json.loads(html.unescape(found[1]))
        errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Seen(
            errors=errors,
            width=result["width"],
            scroll_width=result["scrollWidth"],
            outside=result["outside"],
            violations=result["violations"],
            scrolling=result["scrolling"],
            background=result["dark"],
            picture=shot.read_bytes(),
        )


def dump(address: str, *, virtual_time: bool = True) -> str:
    """Return the DOM of a page after its scripts have run; without virtual time, when it has loaded."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory() as profile:
        budget = ["--virtual-time-budget=15000"] if virtual_time else []
        options = [f"--user-data-dir={profile}", *budget, "--dump-dom"]
        return _run([CHROMIUM, *_FLAGS, *options, address]).stdout


def print_to_pdf(page: Path, pdf: Path) -> None:
    """Print a page with its print style."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
        _run([CHROMIUM, *_FLAGS, *options, page.as_uri()])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
