"""Progress bars on a terminal of a given width: whole figures, messages and logs above the bar, words not cut."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

SCRIPT = """
import logging, time
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.cli.progress import ConsoleEvents

SENTENCE = "queries: dev MRR@10 +0.023 (95% interval +0.007 to +0.041, p = .003) in 23 s, better than the base"

def command():
    events = ConsoleEvents()
    with events.steps_progress("training") as progress:
        for mode, total in (("queries", 4), ("full", 1234)):
            events.on_phase(mode)
            for step in (1, 2, total):
                progress(step, total, {"loss": 0.408, "examples/s": 11.538, "tokens/s": 1170.0, "dev_mrr": 0.711})
                time.sleep(0.15 * (step == 2))  # the bar is drawn ten times a second
            events.on_phase(f"{mode}: evaluating")
            time.sleep(0.15)
            events.on_message(SENTENCE)
            logging.getLogger("llama_index_ace_finetune.some").warning("no time is left for mode 'full'")
    with events.texts_progress("encoding", 100000) as progress:
        for count in (1, 50000, 49999):
            progress(count)
            time.sleep(0.15 * (count > 1))
    events.on_message("ships full")

run_command(command)
"""


def on_terminal(code: str, *, columns: int, **streams: int) -> str:
    """Run the code with its streams on a terminal of that width; return what reached the terminal."""
    main, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "LINES")}
    options = {"stdout": secondary, "stderr": secondary, **streams}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=secondary, env={**environment, "TERM": "xterm"}, **options
    )
    os.close(secondary)
    written = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux reports the end of a terminal in this way
            break
        if not chunk:
            break
        written += chunk
    os.close(main)
    assert process.wait(60) == 0
    return written.decode()


class Screen:
    """The lines of a terminal after all output, and every line that has been on it."""

    def __init__(self, output: str, columns: int) -> None:
        self.lines, self.seen, row, column = [""], set(), 0, 0
        for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                self.lines += [""] * (row + 1 - len(self.lines))
            elif part.startswith("\x1b"):
                if part.endswith("A"):
                    row -= int(part[2:-1] or 1)
                elif part == "\x1b[2K":
                    self.lines[row] = ""
            else:
                self.lines[row] = self.lines[row][:column].ljust(column) + part + self.lines[row][column + len(part) :]
                column += len(part)
                assert len(self.lines[row]) <= columns, self.lines[row]
                self.seen.add(self.lines[row].rstrip())


@pytest.mark.parametrize("columns", [60, 80])
def test_figures_are_whole_and_nothing_breaks_into_the_bar(columns: int) -> None:
    screen = Screen(on_terminal(SCRIPT, columns=columns), columns)
    for figures in (
        r"queries +.* 2/4 .*",
        r"full +.* 2/1234 .*",
        r"encoding +.* 50001/100000 [\d,.]+/s \d:\d\d:\d\d left",
    ):
        assert any(re.fullmatch(figures, line) for line in screen.seen), (figures, screen.seen)
    assert any(re.fullmatch(r"full: evaluating +.* 1234/1234 .*/s \d:\d\d:\d\d", line) for line in screen.seen)
    assert any(line.startswith("loss 0.408  examples/s 11.538  tokens/s 1,170") for line in screen.seen)
    # No figure is cut, except details below the bar.
    assert not any("…" in line for line in screen.seen if not line.startswith("loss"))
    final = " ".join(line.strip() for line in screen.lines)
    sentence = "queries: dev MRR@10 +0.023 (95% interval +0.007 to +0.041, p = .003) in 23 s, better than the base"
    assert final.count(sentence) == 2  # as long as words are not cut
    assert final.count("no time is left for mode 'full'") == 2
    # Bars stay below the messages that came while they ran.
    kept = [line.split()[0] for line in screen.lines if line.strip()]
    assert kept.index("full:") > max(n for n, word in enumerate(kept) if word == "no")
    assert (kept[-2], kept[-1]) == ("encoding", "ships")


def test_messages_go_to_a_file_while_the_bar_is_on_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("wb") as file:
        shown = on_terminal(SCRIPT, columns=80, stdout=file.fileno())
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("in 23 s, better than the base")
    assert "better than the base" not in shown
    assert "50001/100000" in shown


def test_no_bar_without_a_terminal() -> None:
    code = SCRIPT.replace("0.15", "0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["no time is left for mode 'full'"] * 2
    assert len(done.stdout.splitlines()) == 3
