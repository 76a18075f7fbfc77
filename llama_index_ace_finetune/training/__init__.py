"""Contrastive fine-tuning, and the choice of what ships."""
