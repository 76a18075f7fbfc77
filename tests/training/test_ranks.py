"""Training by several processes: the gradients and weights of one, and what happens if a process differs or ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.numpy import load_file

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training import ranks as module
from llama_index_ace_finetune.training.loop.callback import last_checkpoint
from llama_index_ace_finetune.training.losses.divided_batch import divide_rows
from llama_index_ace_finetune.training.ranks import ONE, _reason, join_ranks, launched_rank
from tests.encoders.tiny_model import tiny_model
from tests.helpers.rank_processes import start_ranks

TRAIN = """
import sys
from contextlib import contextmanager
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.train import train
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.loop import fit

fit._SAVED_SECONDS = 0.01  # after every step
data, base, output, cluster_size, epochs = sys.argv[1:]

class Steps(PipelineEvents):
    @contextmanager
    def steps_progress(self, label):
        yield lambda step, total, latest: print("step", step, flush=True)

def command():
    config = TrainingConfig(base_model=base, output_dir=output, mode="full", epochs=int(epochs), batch_size=8,
                            hard_negatives=1, budget_minutes=None, learning_rate=1e-3, interpolation=(1.0,),
                            max_seq_length=32, device="cpu", precision="float32", cluster_size=int(cluster_size))
    print("shipped", train(data, config, resume=True, events=Steps()).metrics["mode"])

sys.exit(run_command(command))
"""

SILENT = """
import sys, time
import torch
from llama_index_ace_finetune.cli.execute import run_command
from llama_index_ace_finetune.training.ranks import join_ranks

def command():
    with join_ranks(device="cpu", seconds=3) as ranks:
        if ranks.is_main:
            ranks.receive(torch.empty(4), source=1)
        else:
            time.sleep(30)

sys.exit(run_command(command))
"""


class TestDivideRows:
    def test_tokens_are_balanced_and_every_row_has_one_rank(self) -> None:
        # Longest first: 9 to rank 0, 7 to rank 1, 5 to rank 1 (12), 4 to rank 0 (13), 2 to rank 1 (14), 1 to rank 0.
        lengths = torch.tensor([4, 9, 1, 7, 5, 2])
        block = {"attention_mask": (torch.arange(9)[None, :] < lengths[:, None]).long()}
        assert [rows.tolist() for rows in divide_rows(block, 2) or ()] == [[0, 1, 2], [3, 4, 5]]

    def test_the_first_rank_has_a_row_where_there_are_few(self) -> None:
        block = {"attention_mask": torch.ones(2, 3, dtype=torch.int64)}
        assert [rows.tolist() for rows in divide_rows(block, 3) or ()] == [[0], [1], []]

    def test_features_without_a_mask_are_not_divided(self) -> None:
        assert divide_rows({"input_ids": torch.arange(5), "offsets": torch.tensor([0, 2])}, 2) is None


def test_a_process_by_itself_forms_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # such as of a job scheduler; torchrun also sets its run id
    monkeypatch.setenv("RANK", "1")
    assert launched_rank() is None
    with join_ranks() as ranks:
        assert ranks is ONE
    assert not torch.distributed.is_initialized()


def test_the_reason_of_a_lost_connection_is_one_clause() -> None:
    text = "[/build/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:5512. This is typically a crash"
    assert _reason(RuntimeError(text)) == "Connection closed by peer [127.0.0.1]:5512"
    assert _reason(RuntimeError("Timed out waiting 3000ms for recv")) == "Timed out waiting 3000ms for recv"


def test_a_process_that_is_ending_ends_at_the_second_termination() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        module._ignore_termination()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_device_that_ranks_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with (
        pytest.raises(TrainingError, match=r"the device is 'mps'; set device to cpu or cuda"),
        join_ranks(device="mps"),
    ):
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without dropout, which draws other values where a batch is divided."""
    folder = tiny_model(tmp_path_factory.mktemp("base") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def data(training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dev queries: the last weights ship."""
    file = tmp_path_factory.mktemp("data") / "data.json"
    replace(training_data, examples=tuple(e for e in training_data.examples if e.split == "train")).save(file)
    return file


def train_command(data: Path, base: Path, out: Path, *, cluster_size: int = 4, epochs: int = 3) -> list[str]:
    return ["-c", TRAIN, str(data), str(base), str(out), str(cluster_size), str(epochs)]


@pytest.fixture(scope="module")
def by_two(data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted training by two processes."""
    out = tmp_path_factory.mktemp("two") / "model"
    processes = start_ranks([train_command(data, base, out)] * 2)
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    # Both return the result of rank 0, which alone takes steps.
    assert [output.splitlines()[-1] for output, _ in outputs] == ["shipped full"] * 2, outputs
    assert len(outputs[0][0].splitlines()) == 1 + 15
    assert len(outputs[1][0].splitlines()) == 1
    return out


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(model)}: {name}": torch.from_numpy(value)
        for file in model.rglob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_gradients_are_those_of_one_process(base: Path, precision: str) -> None:
    processes = start_ranks([["-m", "tests.training.divided_gradients", str(base), precision]] * 2)
    (output, error), _ = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], error
    differences = json.loads(output)
    assert len(differences) == 9
    for name, found in differences.items():
        # In float32, sums over other parts of the batch round differently, relative to the largest gradient.
        allowed = 1e-6 if precision == "float64" else 1e-5 * found["largest"]
        assert found["gradient"] < allowed, (name, found)
        assert found["loss"] < 2e-6, (name, found)
        assert found["largest"] > 0.1, (name, found)


@pytest.mark.slow
def test_weights_are_those_of_one_process(data: Path, base: Path, by_two: Path, tmp_path: Path) -> None:
    command = train_command(data, base, tmp_path / "model")
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=500)
    one, two, start = weights_of(tmp_path / "model"), weights_of(by_two), weights_of(base)
    assert one.keys() == two.keys()
    changed = torch.cat([(one[name] - start[name]).abs().flatten() for name in one])
    differs = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert changed.max() > 1e-3
    # Adam turns a gradient that is 0 but for rounding, such as of the keys' bias, into a whole step.
    assert (differs < 1e-5).float().mean() > 0.99
    assert differs.mean() < 1e-2 * changed.mean()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_and_the_training_resumes(
    data: Path, base: Path, by_two: Path, tmp_path: Path, killed: int
) -> None:
    commands = [train_command(data, base, tmp_path / "model")] * 2
    processes = start_ranks(commands)
    stdout = processes[0].stdout
    assert stdout is not None
    for line in stdout:
        if line.strip() == "step 6":
            os.kill(processes[killed].pid, signal.SIGKILL)
            break
    killed_at = time.monotonic()
    _, error = processes[1 - killed].communicate(timeout=120)
    assert time.monotonic() - killed_at < 60
    assert processes[1 - killed].returncode == 2
    assert "Another process of this training has ended" in error
    assert "repeat the command with --resume" in error
    assert "Traceback" not in error
    processes[killed].communicate()
    assert not (tmp_path / "model").exists()
    last = last_checkpoint(tmp_path / ".model.work" / "training" / "full")
    assert last is not None
    resumed = start_ranks(commands)
    outputs = [process.communicate(timeout=500) for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], outputs
    assert outputs[0][0].splitlines()[0] == f"step {int(last.name.rpartition('-')[2]) + 1}"
    whole = weights_of(by_two)
    assert whole.keys() == weights_of(tmp_path / "model").keys()
    for name, weight in weights_of(tmp_path / "model").items():
        assert torch.equal(weight, whole[name]), name


@pytest.mark.slow
def test_ranks_that_differ_end_with_a_sentence(data: Path, base: Path, tmp_path: Path) -> None:
    processes = start_ranks([train_command(data, base, tmp_path / "model", epochs=epochs) for epochs in (3, 4)])
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 2
        assert error.count("error:") == 1
        assert "Rank 1 of this training has another configuration than rank 0" in " ".join(error.split())
        assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_lost_in_bounded_time() -> None:
    processes = start_ranks([["-c", SILENT]] * 2)
    _, error = processes[0].communicate(timeout=120)
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 2
    assert "Another process of this training has ended, or does not answer" in " ".join(error.split())


@pytest.mark.slow
def test_the_option_starts_the_processes(training_data: TrainingData, base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    training_data.save(data)
    command = [
        *(sys.executable, "-m", "llama_index_ace_finetune", "train", "--training-data", str(data)),
        *("--out", str(tmp_path / "model"), "--base-model", str(base), "--mode", "full", "--epochs", "2"),
        *("--batch-size", "8", "--device", "cpu", "--precision", "float32", "--nproc", "2", "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total_steps"] == 10
    assert "Traceback" not in done.stderr
    assert "elastic" not in done.stderr
    data.write_text("[]")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert str(data) in refused.stderr
    assert "elastic" not in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_run_divides_the_batches_of_its_training(suite: Path, base: Path, tmp_path: Path) -> None:
    def command(name: str, *options: str) -> list[str]:
        return [
            *(sys.executable, "-m", "llama_index_ace_finetune", "run", "--data", str(suite), "--out", name),
            *("--base-model", f"{base},{base}-copy", "--mode", "full", "--epochs", "2", "--batch-size", "8"),
            *("--device", "cpu", "--precision", "float32", "--budget", "60", "--json", *options),
        ]

    shutil.copytree(base, f"{base}-copy", dirs_exist_ok=True)
    made = {}
    for name, options in (("one", ()), ("two", ("--nproc", "2"))):
        done = subprocess.run(
            command(name, *options), capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        # Every message is one of rank 0.
        assert done.stderr.count("training on ") == 1
        made[name] = json.loads(done.stdout)["training"]
    assert made["two"]["metrics"]["total_steps"] == made["one"]["metrics"]["total_steps"] > 0
    one, two = made["one"]["history"], made["two"]["history"]
    assert [row["step"] for row in one] == [row["step"] for row in two]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.slow
def test_the_launcher_names_a_rank_that_is_killed(data: Path, base: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "llama_index_ace_finetune", "train", "--training-data", str(data), "--mode", "full"),
        *("--out", str(tmp_path / "model"), "--base-model", str(base), "--device", "cpu", "--nproc", "2"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        deadline = time.monotonic() + 300
        ranks: list[psutil.Process] = []
        while len(ranks) < 2 and time.monotonic() < deadline:
            ranks = [
                child for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") in ("0", "1")
            ]
            time.sleep(0.2)
        (second,) = [child for child in ranks if child.environ()["RANK"] == "1"]
        second.kill()
        _, error = launcher.communicate(timeout=120)
    assert launcher.returncode == 2
    assert "Rank 1 of the training was killed by signal 9" in " ".join(error.split())
    assert not [child for child in ranks if child.is_running()]
