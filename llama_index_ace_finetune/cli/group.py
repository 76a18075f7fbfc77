"""What holds for every verb: help, version, how much is said, exit codes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.commands.voice import speaking

ACE_FINETUNE = "Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."

EPILOGUE = (
    "Exit codes: 0 done, 1 the verdict or the audit says no, 2 something you can put right, 3 a fault of the program, "
    "130 stopped."
)

_ANYWHERE = ("--quiet", "--verbose")
_NARROW = 80


class Verb(TyperCommand):
    """A verb, whose help is legible in a narrow terminal too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: as a table, or as lines where a table would cut the names of options."""
        _hide_types_of_switches(self.get_params(ctx))
        if shutil.get_terminal_size().columns < _NARROW:
            self.rich_markup_mode = None
            # \b keeps the examples from being broken, so that they can be copied.
            self.epilog = "\b\n" + Text.from_markup(self.epilog or "").plain.replace("\n\n", "\n")
        super().format_help(ctx, formatter)


class Verbs(TyperGroup):
    """The verbs; `--quiet` and `--verbose` may stand before or after one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of all verbs."""
        _hide_types_of_switches(self.get_params(ctx))
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move what holds for every verb to the front."""
        end = args.index("--") if "--" in args else len(args)
        moved = [word for word in args[:end] if word in _ANYWHERE]
        kept = [word for word in args[:end] if word not in _ANYWHERE]
        return super().parse_args(ctx, [*moved, *kept, *args[end:]] if kept else args)


def _hide_types_of_switches(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


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
