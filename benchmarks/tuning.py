"""Make a fine-tuner from a retrieval set: split, mine with the defaults, load the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sets import load, test_set

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet

BASE = "sentence-transformers/all-MiniLM-L6-v2"


def mined(folder: Path, name: str, cache: Path) -> tuple[TrainingData, DevSet]:
    """Training data with the defaults, and the test queries."""
    dataset = load(folder, name)
    split = split_dataset(dataset)
    encoder = Encoder.load(BASE, settings=EncoderSettings(device="cpu", precision="auto"))
    data = generate_training_data(dataset, split, HardNegativeMiner(encoder=encoder, cache=cache))
    return data, test_set(dataset, list(split.test))


def tuner_of(
    data: TrainingData, output: Path, cache: Path | None = None, *, selected: Path | None = None, **options: Any
) -> EmbeddingFineTuner:
    """A tuner over `data` with the base model loaded; `options` are those of `TrainingConfig`."""
    config = TrainingConfig(output_dir=str(output), device="cpu", **options)
    tuner = EmbeddingFineTuner(config, cache=cache, selected=selected)
    tuner.load_training_data(data)
    tuner.initialize_model()
    return tuner


def success_at_1(scores: DevScores) -> float:
    """The share of queries whose first hit is relevant: the reciprocal rank is 1."""
    return float((scores.mrr == 1).mean())
