"""Follow the README as a newcomer: in a fresh clone, with an empty HOME, running every command as written.

    python tests/helpers/newcomer.py [--blocks 0 1 2]

Makes the clone in a temporary folder and stops at the first command that fails. It takes as long as `make demo` and
`make test` do. `my_suite.json`, which the README leaves to its reader, is every fifth memory of the demo's data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from doc_snippets import PROJECT, blocks


def main() -> int:
    parser = argparse.ArgumentParser(description="Follow the README in a fresh clone.")
    parser.add_argument("--blocks", type=int, nargs="*", help="shell blocks of the README by number; all by default")
    chosen = parser.parse_args().blocks
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        home, clone = Path(folder) / "home", Path(folder) / "clone"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
        suite = json.loads((clone / "examples" / "data" / "playbook_suite.json").read_text(encoding="utf-8"))
        suite["test_cases"] = suite["test_cases"][::5]
        (clone / "my_suite.json").write_text(json.dumps(suite), encoding="utf-8")
        path = os.pathsep.join([str(clone / ".venv" / "bin"), os.environ["PATH"]])
        environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
        shell = [block for block in blocks(clone / "README.md") if block.language == "bash" and block.runs]
        for number, block in enumerate(shell):
            if chosen is not None and number not in chosen:
                continue
            start = time.perf_counter()
            words = ["bash", "-exuo", "pipefail", "-c", block.code]
            done = subprocess.run(words, cwd=clone, env=environment, check=False)
            print(
                f"README block {number}: status {done.returncode} after {time.perf_counter() - start:.0f} s", flush=True
            )
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
