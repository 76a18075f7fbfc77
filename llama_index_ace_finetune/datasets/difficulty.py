"""Difficulties of queries, as ACE suites mark them."""

from __future__ import annotations

DIFFICULTIES = ("easy", "medium", "hard")
