"""The sentence-transformers trainer with our batches, our loss and a time budget."""

from __future__ import annotations

import time
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor

from llama_index_ace_finetune.training.batches import BatchCollator
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.loss import MaskedRankingLoss

_LOGGED_STEPS = 50


class ContrastiveTrainer(SentenceTransformerTrainer):
    """`SentenceTransformerTrainer` without its model card, since a card of our own is written."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add nothing: the stock callback would sample texts of the training data into the card."""


def training_arguments(
    config: TrainingConfig, *, steps: int, device: str, bfloat16: bool, scratch: str
) -> SentenceTransformerTrainingArguments:
    """Return the trainer's arguments for `steps` optimiser steps; dev and saving are the watcher's."""
    return SentenceTransformerTrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=min(config.warmup_steps, steps // 10),
        bf16=bfloat16,
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=max(1, steps // _LOGGED_STEPS),
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
    )


def planned_steps(config: TrainingConfig, loss: MaskedRankingLoss, collator: BatchCollator, *, bfloat16: bool) -> int:
    """Return the steps of `config.epochs`, or as many as fit into `config.budget_minutes`, at least 1.

    The time of a step is measured on the first batch, forward and backward, without changing the model.
    """
    count = len(collator.examples.queries)
    steps = -(-count // config.batch_size) * config.epochs
    if config.budget_minutes is None:
        return steps
    numbers = list(range(0, count, max(1, count // config.batch_size)))[: config.batch_size]
    seconds = min(_step_seconds(loss, collator, numbers, bfloat16=bfloat16) for _ in range(2))
    return max(1, min(steps, int(config.budget_minutes * 60 / seconds)))


def _step_seconds(loss: MaskedRankingLoss, collator: BatchCollator, numbers: list[int], *, bfloat16: bool) -> float:
    model = loss.model
    device = next(model.parameters()).device
    state = torch.get_rng_state()
    start = time.perf_counter()
    batch = collator([{"example": number} for number in numbers])
    blocks = [
        {
            name.removeprefix(f"{role}_"): value.to(device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
            if name.startswith(f"{role}_")
        }
        for role in ("query", "document")
    ]
    model.train()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        loss(blocks, batch["label"].to(device)).backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    return seconds
