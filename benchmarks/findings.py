"""Results of a benchmark, compared with targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Findings:
    """Sections of the report, and one line per target."""

    sections: list[str] = field(default_factory=list)
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def section(self, title: str, header: str, rows: list[str]) -> None:
        columns = header.count("|") - 1
        text = "\n".join([f"## {title}", "", header, "|---" * columns + "|", *rows])
        print(text, end="\n\n", flush=True)
        self.sections.append(text)

    def ask(self, what: str, met: bool) -> None:
        self.asked.append((what, met))

    def close(self, title: str, machine: str, out: Path | None) -> int:
        """Print the last line, write the tables as markdown, and return the exit status."""
        line = "; ".join(f"{what}: {'met' if good else 'MISSED'}" for what, good in self.asked)
        print(line)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("\n\n".join([f"# {title}", f"{machine}.", *self.sections, line]) + "\n", encoding="utf-8")
        return 0 if all(good for _, good in self.asked) else 1
