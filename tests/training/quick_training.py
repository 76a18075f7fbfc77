"""Settings of a short training, for tests that do not depend on the quality of the result."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, Any] = {
    "mode": "full",
    "epochs": 1,
    "budget_minutes": None,
    "batch_size": 8,
    "hard_negatives": 1,
    "interpolation": (0.5, 1.0),
    "max_seq_length": 32,
    "precision": "float32",
    "device": "cpu",
}
