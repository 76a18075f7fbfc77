"""The report of a run: JSON, HTML, plots, per-query file, comparison of runs."""
