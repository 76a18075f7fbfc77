"""Contrastive, full-corpus and distillation losses."""
