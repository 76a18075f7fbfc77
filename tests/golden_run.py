"""Compare the results of a run before and after a refactoring.

    python tests/golden_run.py --write golden.json      # before
    python tests/golden_run.py --compare golden.json    # after; exits 1 and lists the differences

Runs the demo data without a time budget, in float32, on one CPU thread, which takes some minutes. It stores the
metrics, and digests of the split, the training examples and the ranking of every query. Paths, versions, times and
names of settings are ignored. On another machine or with other library versions the last bits of the vectors may
differ, so write and compare in the same environment. `--run` uses an existing run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = "training: {budget_minutes: null, precision: float32, device: cpu}\n"
_EXAMPLE = ("query_id", "query", "split", "positive_ids", "negative_ids", "negative_scores", "negative_ranks")


def make_run(folder: Path) -> Path:
    """Run the demo's data with fixed settings and return the run folder."""
    config, out = folder / "golden.yaml", folder / "run"
    config.write_text(SETTINGS, encoding="utf-8")
    data = PROJECT / "examples" / "data" / "playbook_suite.json"
    command = "from llama_index_ace_finetune.cli import main; main()"
    words = [sys.executable, "-c", command, "run", "--config", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    subprocess.run([*words, "--data", str(data), "--out", str(out)], check=True, env=environment)
    return out


def outcome(run: Path) -> dict[str, Any]:
    """Return the results that must not change: digests by name, and the metrics of each system."""
    split, data, report = (_read(run / name) for name in ("split.json", "training_data.json", "report.json"))
    lines = (run / "report.per_query.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line) for line in lines]
    return {
        "split": _digest({part: sorted(split["queries"][part]) for part in ("train", "dev", "test")}),
        "training data": _digest([[example.get(name) for name in _EXAMPLE] for example in data["examples"]]),
        "memories": _digest(data["memories"]),
        "rankings": {
            system: _digest([[row["query_id"], row["systems"][system]] for row in queries])
            for system in queries[0]["systems"]
        },
        "metrics": {system["name"]: system["means"] for system in report["systems"]},
        "serving": report["serving"],
        "system": {name: report["verdict"]["system"][name] for name in ("name", "embedding", "weights", "dev_means")},
        "verdict": {name: report["verdict"][name] for name in ("ship_tuned", "confirmed")},
    }


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Describe every value that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from differences(before.get(name), after.get(name), f"{where} / {name}" if where else name)
    elif before != after:
        yield f"{where}: {before!r} before, {after!r} now"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def main() -> int:
    """Command line: write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE")
    what.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--run", type=Path, help="an existing run with these settings, instead of a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = outcome(options.run or make_run(Path(folder)))
    if options.write:
        options.write.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0
    changed = list(differences(_read(options.compare), found))
    print("\n".join(changed) or "no differences")
    return 1 if changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
