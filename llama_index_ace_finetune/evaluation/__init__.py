"""Evaluation: measures, statistics, the systems compared, the verdict and the report."""
