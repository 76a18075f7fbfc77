"""The training loop: trainer, callback, budget, checkpoints."""
