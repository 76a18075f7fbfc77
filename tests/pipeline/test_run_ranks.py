"""A run whose training is divided over processes: a process that is killed in the middle, and folds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.training.loop.callback import last_checkpoint
from tests.encoders.tiny_model import tiny_model
from tests.helpers.rank_processes import start_ranks

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")]

# The command line, with a checkpoint after every step, which ends this process at its first checkpoint if it is `rank`.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from threading import Thread
from llama_index_ace_finetune.cli import main
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.loop.callback import last_checkpoint

fit._SAVED_SECONDS = 0.01
rank, checkpoints = sys.argv.pop(1), Path(sys.argv.pop(1))

def end():
    while last_checkpoint(checkpoints) is None:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == rank:
    Thread(target=end, daemon=True).start()
main()
"""

# The command line, which prints the checkpoint that its training begins with.
RESUMED = """
import sys
from transformers import Trainer
from llama_index_ace_finetune.cli import main

train = Trainer.train

def printing(self, resume_from_checkpoint=None, **options):
    print("from", resume_from_checkpoint, file=sys.stderr)
    return train(self, resume_from_checkpoint=resume_from_checkpoint, **options)

Trainer.train = printing
main()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def run_options(suite: Path, base: Path, out: Path, *more: str) -> list[str]:
    return [
        *("run", "--data", str(suite), "--out", str(out), "--base-model", str(base), "--mode", "full"),
        *("--batch-size", "8", "--device", "cpu", "--precision", "float32", "--budget", "60", *more),
    ]


def by_launcher(options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama_index_ace_finetune", *options, "--nproc", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_same_command_resumes_it(
    suite: Path, base: Path, tmp_path: Path, killed: int
) -> None:
    options = run_options(suite, base, tmp_path / "run", "--epochs", "2")
    checkpoints = tmp_path / ".run.work" / "training" / "full"
    processes = start_ranks([["-c", KILLED, str(killed), str(checkpoints), *options]] * 2)
    errors = [process.communicate(timeout=1200)[1] for process in processes]
    assert processes[killed].returncode == -signal.SIGKILL, errors
    assert processes[1 - killed].returncode == 2, errors
    sentence = " ".join(errors[1 - killed].split())
    assert sentence.count("error:") == 1
    assert "Another process of this training has ended" in sentence
    assert "Traceback" not in sentence
    assert not (tmp_path / "run").exists()
    last = last_checkpoint(checkpoints)
    resumed = start_ranks([["-c", RESUMED, *options, "--resume"]] * 2)
    errors = [process.communicate(timeout=1200)[1] for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], errors
    assert f"from {last}" in errors[0]
    assert ace.report(tmp_path / "run").report["training"]["metrics"]["total_steps"] > 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_launcher_names_the_rank_and_leaves_no_process(suite: Path, base: Path, tmp_path: Path) -> None:
    options = run_options(suite, base, tmp_path / "run", "--epochs", "200", "--json")
    command = [sys.executable, "-m", "llama_index_ace_finetune", *options, "--nproc", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        ranks: dict[str, psutil.Process] = {}
        while len(ranks) < 2 and launcher.poll() is None:
            time.sleep(0.2)
            for child in psutil.Process(launcher.pid).children():
                if rank := child.environ().get("RANK"):  # which a process hides later
                    ranks[rank] = child
        assert launcher.stderr is not None
        lines = []
        for line in launcher.stderr:
            lines.append(line)
            if "training on" in line:
                break
        ranks["1"].kill()
        _, rest = launcher.communicate(timeout=300)
    error = " ".join("".join([*lines, rest]).split())
    assert launcher.returncode == 2, error
    assert "Rank 1 of the training was killed by signal 9" in error
    assert "Traceback" not in error
    assert not [rank for rank in ranks.values() if rank.is_running()]
    assert not (tmp_path / "run").exists()


def test_folds_divide_the_batches_of_each_training(
    write_suite: Callable[[Path, int], Path], base: Path, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite" / "suite.json", 60)
    made = by_launcher(run_options(suite, base, tmp_path / "run", "--epochs", "1", "--folds", "3", "--json"))
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["folds"]["queries"] == len(ace.read_dataset(suite).queries)
    # One message for each fold's training, of rank 0.
    assert made.stderr.count("training on ") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "suite"]
