"""Text to unit vectors: model files, prompts, identity, cache."""
