"""The sentence-transformers trainer and its arguments."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from llama_index_ace_finetune.training.config import TrainingConfig

_LOGGED_STEPS = 50


class ContrastiveTrainer(SentenceTransformerTrainer):
    """`SentenceTransformerTrainer` without its model card, since a card of our own is written."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add nothing: the stock callback would sample texts of the training data into the card."""


def training_arguments(
    config: TrainingConfig, *, steps: int, device: str, bfloat16: bool, folder: str, save_steps: int | None = None
) -> SentenceTransformerTrainingArguments:
    """Return the trainer's arguments for `steps` optimiser steps; dev is the watcher's.

    Checkpoints go to `folder` every `save_steps`; None saves none.
    """
    return SentenceTransformerTrainingArguments(
        output_dir=folder,
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
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
    )
