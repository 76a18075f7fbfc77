"""A small memory set, a model folder with changed weights, and a run folder made of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.utils.atomic import write_json

BASE = DEFAULT_BASE_MODEL

TEXTS = {
    "expiry": "Sessions end after thirty idle minutes; background polling must not reset the timer.",
    "rotation": "Rotate the signing keys every ninety days and keep the previous pair for one more day.",
    "backup": "Nightly backups go to the cold bucket; restore drills run on the first Monday of the month.",
    "migrations": "Run database migrations before the new pods start, never while both versions serve.",
    "retries": "Retry payment calls with an idempotency key, otherwise a customer is charged twice.",
    "cache": "Flush the product cache after a price import, since stale prices stay for an hour.",
    "alerts": "An alert without a runbook link is deleted at the weekly review.",
    "uploads": "Uploads above two gigabytes need the chunked endpoint; the plain one times out.",
    "timezones": "Store timestamps in UTC and convert them to local time in the browser only.",
    "flags": "Remove a feature flag within two weeks after its rollout has reached everybody.",
    "sandbox": "The sandbox bank answers declined for every amount that ends in 13 cents.",
    "invoices": "Invoice numbers have no gaps: a cancelled invoice keeps its number and gets a credit note.",
}
QUERIES = {
    "expiry": "users stay logged in for ever because the page polls",
    "rotation": "how often do we change the signing keys?",
    "backup": "where do the nightly backups go?",
    "migrations": "when should database migrations run in a deployment?",
    "retries": "customer was charged twice after a payment retry",
    "cache": "old prices are shown after an import",
    "alerts": "which alerts get deleted at the review?",
    "uploads": "big uploads time out",
    "timezones": "timestamps are off by the local time difference",
    "flags": "how long may a feature flag stay?",
    "sandbox": "test bank declines the amount",
    "invoices": "may an invoice number be skipped when an invoice is cancelled?",
}


def small_memories() -> list[Memory]:
    return [
        Memory(
            identifier,
            text,
            {"category": "OPERATIONS", "severity": 3, "helpful": number, "harmful": 1, "source_id": 1000 + number},
        )
        for number, (identifier, text) in enumerate(TEXTS.items())
    ]


def write_tuned_model(folder: Path, *, seed: int = 1, base: str = BASE) -> Path:
    """Write a model folder as training does, with random noise of `seed` on the weights of the base's last layer."""
    examples = tuple(TrainingExample(f"q-{name}", query, (name,), split="train") for name, query in QUERIES.items())
    config = TrainingConfig(base_model=base, output_dir=str(folder), precision="float32", device="cpu")
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(TrainingData(examples=examples, memories=TEXTS))
    tuner.initialize_model()
    assert tuner.encoder is not None
    last = f".layer.{tuner.encoder.model[0].auto_model.config.num_hidden_layers - 1}."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in tuner.encoder.model.named_parameters():
            if last in name and weights.ndim == 2:
                weights += 0.3 * weights.std() * torch.randn(weights.shape, generator=generator)
    return tuner.save_model()


def write_run(folder: Path, tuned_model: Path) -> Path:
    """Write the files of a run folder that serving needs: manifest, report, model and index."""
    run = RunFolder.create(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tuned_model, run.model)
    write_index(small_memories(), tuned=Encoder.load(run.model), base=Encoder.load(BASE), path=run.index)
    write_json(run.report, {"serving": {"vectors": "model", "weights": [0.75, 0.25]}})
    write_json(run.manifest, {"format_version": 1, "base_model": BASE})
    return folder


def corrupt_weights(model: Path) -> None:
    """Truncate the weights to half, like an interrupted copy."""
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
