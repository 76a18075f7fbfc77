"""What a document of a batch is to a query."""

from __future__ import annotations

POSITIVE, NEGATIVE, MASKED = 1, 0, -1
