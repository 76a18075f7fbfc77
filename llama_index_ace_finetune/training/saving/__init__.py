"""Model folders, model cards and plots."""
