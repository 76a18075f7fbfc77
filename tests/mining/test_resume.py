"""A killed run resumes from its cache and writes the same file as an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator

CHUNK = 4
SHARDS = 10  # of about 18 for the 72 texts
RUN = """
import sys
import torch
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
from pathlib import Path
torch.set_num_threads(1)
encoder = Encoder.load(DEFAULT_BASE_MODEL, settings=EncoderSettings(device="cpu"))
encoder.CHUNK = int(sys.argv[4])
miner = HardNegativeMiner(encoder=encoder, cache=Path(sys.argv[3]))
TrainingDataGenerator(sys.argv[1], sys.argv[2], miner).generate_and_save(3)
"""


def generate(suite: Path, output: Path, encoder: Encoder, cache: Path | None) -> list[int]:
    """Generate in this process; return the numbers of texts reported to `progress`, in order."""
    done: list[int] = []
    miner = HardNegativeMiner(encoder=encoder, cache=cache)
    TrainingDataGenerator(suite, output, miner).generate_and_save(3, progress=done.append)
    return done


@pytest.fixture
def small_chunks(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(minilm, "CHUNK", CHUNK)
    return minilm


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_resumed_run_writes_the_same_bytes(seed: int, small_chunks: Encoder, small_suite: Path, tmp_path: Path) -> None:
    cache, output = tmp_path / "cache", tmp_path / "training_data.json"
    wanted = random.Random(seed).randint(1, SHARDS)
    arguments = [str(small_suite), str(output), str(cache), str(CHUNK)]
    process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        limit = time.monotonic() + 120
        while len(list(cache.rglob("*.keys.npy"))) < wanted and time.monotonic() < limit:
            assert process.poll() is None, "the run ended before it was killed"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
    assert len(list(cache.rglob("*.keys.npy"))) >= wanted
    assert not output.exists()
    resumed = generate(small_suite, output, small_chunks, cache)
    whole = generate(small_suite, tmp_path / "whole.json", small_chunks, None)
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    # Texts that the killed run had encoded were not encoded again.
    assert sum(resumed) == sum(whole)
    assert len(resumed) < len(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "training_data.json", "whole.json"]


def test_two_runs_write_the_same_bytes(minilm: Encoder, small_suite: Path, tmp_path: Path) -> None:
    for name in ("first.json", "second.json"):
        generate(small_suite, tmp_path / name, minilm, tmp_path / "cache")
    first, second = (tmp_path / name for name in ("first.json", "second.json"))
    assert first.read_bytes() == second.read_bytes()
    # Also if the output is in the data folder and existed before.
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "suite.json").write_bytes(small_suite.read_bytes())
    os.utime(folder / "suite.json", (1_700_000_000,) * 2)
    output = folder / "training_data.json"
    generate(folder, output, minilm, tmp_path / "cache")
    written = output.read_bytes()
    assert b'"generated_at": "2023-11-14T22:13:20+00:00"' in written
    generate(folder, output, minilm, tmp_path / "cache")
    assert output.read_bytes() == written
