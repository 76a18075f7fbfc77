"""Confidence intervals, tests and effect sizes for paired differences."""
