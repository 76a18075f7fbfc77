"""Figures measured so far: a benchmark of hours that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """One figure or several by key, in a file of JSON lines; without a file each is measured anew."""

    path: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self.figures.update(json.loads(line))

    def measure(self, key: str, work: Callable[[], Any]) -> Any:
        """What is kept under `key`, else what `work` returns (plain JSON values), which is kept from then on."""
        if key not in self.figures:
            self.figures[key] = work()
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({key: self.figures[key]}) + "\n")
        return self.figures[key]
