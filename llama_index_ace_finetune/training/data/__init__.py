"""From training examples to batches."""
