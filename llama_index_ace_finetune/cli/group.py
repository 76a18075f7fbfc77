"""What all verbs share: help, version, output options."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.cli.console import output_options
from llama_index_ace_finetune.cli.old_options import renamed, run_first
from llama_index_ace_finetune.utils.redact import without_passwords
from llama_index_ace_finetune.utils.terminal import visible

ACE_FINETUNE = "Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."

EPILOGUE = "Exit codes: 0 done, 1 gate not met, 2 user error, 3 fault of the program, 130 stopped, 141 output closed."

_ANYWHERE = ("--quiet", "--verbose")
_NARROW = 80
# By inheritance, since newer versions of typer bring a click of their own.
_UsageError: Any = typer.BadParameter.__base__


class VerbCommand(TyperCommand):
    """A verb, whose help is readable in a narrow terminal too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: as a table, or as lines if a table would cut the names of options."""
        _hide_types_of_switches(self.get_params(ctx))
        if shutil.get_terminal_size().columns < _NARROW or self._table_cuts_names(ctx, formatter):
            self.rich_markup_mode = None
            # \b keeps the examples from being broken, so that they can be copied.
            self.epilog = "\b\n" + Text.from_markup(self.epilog or "").plain.replace("\n\n", "\n")
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options as lines, in the groups of the table."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)

    def _table_cuts_names(self, ctx: Any, formatter: Any) -> bool:
        with redirect_stdout(io.StringIO()) as table:
            super().format_help(ctx, formatter)
        options = (option for one in self.get_params(ctx) for option in (*one.opts, *one.secondary_opts))
        return any(option.startswith("--") and option not in table.getvalue() for option in options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, old spellings too; the error for a text that begins with a dash says how to pass it."""
        names = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        try:
            return super().parse_args(ctx, renamed(run_first(args) if self.name == "search" else args, names))
        except _UsageError as error:
            name = str(getattr(error, "option_name", None) or "")
            is_text = not name.startswith("--") or any(word.startswith(name) and " " in word for word in args)
            places = [(p.metavar or str(p.name)).upper() for p in self.params if p.param_type_name == "argument"]
            if name and places and is_text:
                # The text is the last argument of a verb.
                usage = " ".join([ctx.command_path, "[OPTIONS]", *places[:-1], "--", places[-1]])
                error.message += f"; if it begins a text, put -- before that text: {usage}."
            raise


class VerbGroup(TyperGroup):
    """All verbs; `--quiet` and `--verbose` are accepted before or after one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of all verbs."""
        _hide_types_of_switches(self.get_params(ctx))
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the options of the group to the front."""
        end = args.index("--") if "--" in args else len(args)
        moved = [word for word in args[:end] if word in _ANYWHERE]
        kept = [word for word in args[:end] if word not in _ANYWHERE]
        with _visible_usage_errors():
            return super().parse_args(ctx, [*moved, *kept, *args[end:]] if kept else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        with _visible_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _visible_usage_errors() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = visible(without_passwords(error.message))
        raise


def _hide_types_of_switches(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


def set_output(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Debug logging and tracebacks.")] = False,
) -> None:
    """Fine-tune the embedding model behind a retriever, prove it on held-out queries, and serve it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    context.with_resource(output_options(quiet=quiet, verbose=verbose))
