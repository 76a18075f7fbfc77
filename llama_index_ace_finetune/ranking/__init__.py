"""Scores to ranked rows: arrays in, arrays out."""
