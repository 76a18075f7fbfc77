"""What holds for every verb: help, version, how much is said, exit codes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.commands.voice import speaking

ACE_FINETUNE = "Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."

EPILOGUE = (
    "Exit codes: 0 done, 1 the verdict or the audit says no, 2 something you can put right, 3 a fault of the program, "
    "130 stopped."
)

_ANYWHERE = ("--quiet", "--verbose")


class Verbs(TyperGroup):
    """The verbs; `--quiet` and `--verbose` may stand before or after one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move what holds for every verb to the front."""
        end = args.index("--") if "--" in args else len(args)
        moved = [word for word in args[:end] if word in _ANYWHERE]
        kept = [word for word in args[:end] if word not in _ANYWHERE]
        return super().parse_args(ctx, [*moved, *kept, *args[end:]] if kept else args)


def speak(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print results and errors alone.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done, and trace errors.")] = False,
) -> None:
    """Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    context.with_resource(speaking(quiet=quiet, verbose=verbose))
