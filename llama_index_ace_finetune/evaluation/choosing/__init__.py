"""Choosing the system to serve from values on dev; knows neither models nor reports."""
