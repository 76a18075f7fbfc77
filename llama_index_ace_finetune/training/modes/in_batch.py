"""Mode `in_batch`: as `full`, without mined negatives."""

from __future__ import annotations

from functools import partial

from llama_index_ace_finetune.training.modes.full import estimate_full, train_full
from llama_index_ace_finetune.training.modes.mode import Mode

MODE = Mode(
    name="in_batch",
    keeps_index=False,
    needs_dev=True,
    train=partial(train_full, name="in_batch"),
    estimate=partial(estimate_full, name="in_batch"),
    budget_share=0.9,
)
