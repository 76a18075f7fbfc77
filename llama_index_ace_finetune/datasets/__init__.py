"""Datasets: readers, cleaning, split, audit, statistics. Without torch."""
