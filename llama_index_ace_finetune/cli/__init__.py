"""The command `ace-finetune`: one verb per file."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

from llama_index_ace_finetune.cli.group import ACE_FINETUNE, EPILOGUE, VerbCommand, VerbGroup, set_output
from llama_index_ace_finetune.cli.verb import Verb
from llama_index_ace_finetune.utils.terminal import accept_any_text

__all__ = ["VERBS", "app", "main"]

# The pipeline is imported inside the verbs, so that --help does not wait for torch.

VERBS: Final = (
    "doctor",
    "demo",
    "inspect",
    "init",
    "run",
    "report",
    "search",
    "compare",
    "compare-live",
    "watch",
    "dashboard",
    "audit",
    "export",
    "vectors",
    "synthesize",
    "label",
    "encode",
    "generate",
    "tune",
    "train",
    "evaluate",
    "index",
    "log",
    "feedback",
    "harvest",
)
"""Names of the verbs, in the order of use; each is a file of this folder with a `VERB`, with "_" for "-"."""

app = typer.Typer(
    name="ace-finetune",
    cls=VerbGroup,
    help=ACE_FINETUNE,
    epilog=EPILOGUE,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(set_output)

for _name in VERBS:
    _verb: Verb = import_module(f"{__name__}.{_name.replace('-', '_')}").VERB
    app.command(name=_name, cls=VerbCommand, epilog=_verb.epilogue)(_verb.command)


def main() -> None:
    """Entry point of the console script."""
    accept_any_text()
    app()
