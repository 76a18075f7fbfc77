"""Put real output into the tutorial: `python docs/make_outputs.py demo-run demo.log`.

The log is what `ace-finetune demo --out demo-run` printed; the other blocks come from commands over that run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- output: (\w+) -->\n```console\n\$ ([^\n]+)\n)(.*?)(```\n)", re.DOTALL)
SAME_NAME = {"examples/data/playbook_suite.json": str(DOCS.parent / "examples/data/playbook_suite.json")}


def printed(command: str, run: Path) -> str:
    """Return what a command of the tutorial prints over the run."""
    words = [SAME_NAME.get(word, word) for word in shlex.split(command.replace("demo-run", shlex.quote(str(run))))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.replace(str(run), "demo-run")


def fill(page: Path, run: Path, log: str | None) -> None:
    """Replace the body of every block that is marked as output; the demo's only where its log is given."""

    def block(found: re.Match[str]) -> str:
        head, name, command, body, fence = found.groups()
        body = (body if log is None else log) if name == "demo" else printed(command, run)
        lines = [line.rstrip().replace(str(run), "demo-run") for line in body.strip("\n").splitlines()]
        return head + "\n".join(lines) + "\n" + fence

    page.write_text(BLOCK.sub(block, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    finished, *logs = (Path(argument) for argument in sys.argv[1:])
    fill(DOCS / "tutorial.md", finished, logs[0].read_text(encoding="utf-8") if logs else None)
