"""Figures measured so far, so that a long benchmark can be resumed after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """One or several figures by key, in a JSON Lines file; without a file each is measured again."""

    path: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self.figures.update(json.loads(line))

    def measure(self, key: str, work: Callable[[], Any]) -> Any:
        """Return the figure stored under `key`; if missing, store and return the result of `work` (JSON values)."""
        if key not in self.figures:
            self.figures[key] = work()
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({key: self.figures[key]}) + "\n")
        return self.figures[key]
