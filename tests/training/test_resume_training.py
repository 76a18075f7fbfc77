"""A killed training is resumed and ends with the weights of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.training.loop.callback import last_checkpoint

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner

fit._SAVED_SECONDS = 0.01  # after every step
data, output, checkpoints, mode, weight, remine, also, refit, base = sys.argv[1:]
if refit == "dev":  # a refit needs a selection other than the base, whatever twenty dev queries say
    from llama_index_ace_finetune.training.model_selection import interpolation
    from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
    sure = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
    interpolation.paired_difference = lambda *_, **__: sure
tuner = EmbeddingFineTuner(
    TrainingConfig(base_model=base, output_dir=output, mode=mode, epochs=3, batch_size=8, hard_negatives=1,
                   budget_minutes=None, learning_rate=1e-4, interpolation=(1.0,), max_seq_length=32,
                   device="cpu", precision="float32", late_interaction_weight=float(weight), remine=int(remine),
                   also=(data,) if also else (), tasks=("paraphrases",) if also else (), refit=refit),
    checkpoints=Path(checkpoints),
)
tuner.load_training_data(data)
tuner.initialize_model()
started = []
tuner.train(
    progress=lambda step, total, latest: print("refit" * (started[-1] == "refit") + f"step {step}", flush=True),
    on_mode_start=lambda name, plan: started.append(name),
)
mined = [(one.step, one.changed_queries, one.new_negatives) for one in tuner.results[-1].remined]
print("rows", len(tuner.history), "mined", mined)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "killed_at", "weight", "remine", "also", "refit"),
    [
        ("full", 8, 0, 0, "", "none"),
        ("queries", 2, 0, 0, "", "none"),
        ("full", 8, 0.5, 0, "", "none"),
        # Of fifteen steps, negatives are mined again after the seventh, and are used from the ninth on.
        ("full", 7, 0, 1, "", "none"),
        ("full", 8, 0, 1, "", "none"),
        ("full", 12, 0, 2, "", "none"),
        # Of three tasks, in the second epoch.
        ("full", 20, 0, 1, "also", "none"),
        # In the training that is selected, and in its refit, which has eight steps or more.
        ("full", 4, 0, 0, "", "dev"),
        ("refit", 6, 0, 1, "", "dev"),
    ],
)
def test_killed_training_is_resumed(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    mode: str,
    killed_at: int,
    weight: float,
    remine: int,
    also: str,
    refit: str,
) -> None:
    training_data.save(tmp_path / "data.json")

    def command(name: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            SCRIPT,
            *(str(tmp_path / part) for part in ("data.json", name, f"{name}.work")),
            "full" if mode == "refit" else mode,
            str(weight),
            str(remine),
            also,
            refit,
            # Re-mining and refit do not depend on the size of the model.
            one_layer if remine or refit == "dev" else DEFAULT_BASE_MODEL,
        ]

    killed = "refit" if mode == "refit" else ""
    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=True)
    with subprocess.Popen(command("interrupted"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == f"{killed}step {killed_at}":
                os.kill(process.pid, signal.SIGKILL)
                break
    assert not (tmp_path / "interrupted").exists()
    work = tmp_path / "interrupted.work"
    last = last_checkpoint(work / "refit" / "full" if killed else work / mode)
    assert last is not None
    resumed = subprocess.run(command("interrupted"), capture_output=True, text=True, check=True)
    steps = [line for line in resumed.stdout.splitlines() if line.startswith(f"{killed}step")]
    assert steps[0] == f"{killed}step {int(last.name.rpartition('-')[2]) + 1}"
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert whole.stdout.rstrip().endswith("mined []") == (remine == 0)
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        ours = load_file(tmp_path / "interrupted" / file.relative_to(tmp_path / "whole"))
        for name, weights in load_file(file).items():
            assert (ours[name] == weights).all(), name
