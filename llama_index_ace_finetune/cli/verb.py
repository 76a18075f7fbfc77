"""Verb: a command with examples for its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of `ace-finetune`: a typer function, and command lines that its help shows."""

    command: Callable[..., None]
    examples: tuple[str, ...]

    @property
    def epilogue(self) -> str:
        """The examples in rich markup, each a paragraph."""
        return "\n\n".join(f"Example: [cyan]{example}[/]" for example in self.examples)
