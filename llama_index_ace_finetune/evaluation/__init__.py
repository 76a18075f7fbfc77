"""Measures, certainty, systems under comparison, and the report."""
