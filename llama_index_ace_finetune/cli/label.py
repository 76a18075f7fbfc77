"""`label`: judge synthetic queries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import console, emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import AsJson, Memories, Seed
from llama_index_ace_finetune.cli.verb import Verb

if TYPE_CHECKING:
    from llama_index_ace_finetune.pipeline.label import Labelling
    from llama_index_ace_finetune.synthesis.judged_queries import SyntheticQuery

_KEYS = {"k": "keep", "w": "wrong", "e": "edit", "s": "skip", "q": "quit"}
_SHOWN = 2000  # characters of a memory


def label(
    source: Annotated[Path, typer.Argument(help="Run with synthetic queries, or a file of `synthesize`.")],
    out: Annotated[Path, typer.Option(help="Judged queries, data for `run`; judgements are appended.")] = Path(
        "judged.jsonl"
    ),
    memories: Memories = None,
    count: Annotated[int, typer.Option(help="Number of judgements to reach.")] = 50,
    web: Annotated[bool, typer.Option("--web", help="Judge on a local web page instead of in the terminal.")] = False,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Judge synthetic queries, for dev and test of the next run.

    In the terminal one key is one judgement: keep, wrong, edit, skip, or quit. Each is written at once, and the same
    command resumes.
    """

    def command() -> None:
        from llama_index_ace_finetune.pipeline.label import label as open_labels

        with open_labels(source, out, memories=memories, count=count, seed=seed or 0) as labelling:
            try:
                if web:
                    _serve(labelling)
                else:
                    _ask(labelling)
            except (KeyboardInterrupt, EOFError):
                console().print()
            counts, done = labelling.counts(), labelling.done

        def human(screen: Console) -> None:
            listed = ", ".join(f"{number} {name}" for name, number in counts.items())
            screen.print(f"{done} of {count} queries judged ({listed}), in {out}", markup=False)
            if done < count:
                screen.print("the same command resumes")
            screen.print(
                f"next: ace-finetune run --data {out} --memories MEMORIES --synthesize 1000 --out judged-run",
                markup=False,
            )

        emit({**counts, "judged": done, "output": str(out)}, human)

    execute(command, as_json=as_json)


def _ask(labelling: Labelling) -> None:
    """Ask in the terminal until enough are judged, or the person stops."""
    screen = console()
    while query := labelling.next():
        _show(query, labelling, screen)
        name = ""
        while not name:
            name = _KEYS.get(_key(), "")
        if name == "quit":
            return
        screen.print(name)
        if name == "skip":
            labelling.skipped.add(query.id)
        elif name == "edit":
            screen.print("the query that a user would ask: ", end="")
            labelling.judge(query.id, "edit", text=_line())
        elif name == "keep":
            labelling.judge(query.id, "keep")
        else:
            labelling.judge(query.id, "wrong")


def _show(query: SyntheticQuery, labelling: Labelling, screen: Console) -> None:
    memory = query.memory if len(query.memory) <= _SHOWN else f"{query.memory[:_SHOWN]} ..."
    screen.print(f"\n{labelling.done + 1} of {labelling.count}", style="dim")
    screen.print(query.text, style="bold", markup=False)
    screen.print(f"memory {query.memory_id}: {memory}", markup=False)
    screen.print("keep (k), wrong (w), edit (e), skip (s), quit (q)? ", end="", markup=False)


def _key() -> str:
    """Return the next key; the first letter of a line if the input is no terminal."""
    return click.getchar().lower() if sys.stdin.isatty() else _line()[:1].lower()


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _serve(labelling: Labelling) -> None:
    from llama_index_ace_finetune.pipeline.label_page import LabelServer

    with LabelServer(labelling) as server:
        console().print(f"open {server.url} in a browser of this machine; Ctrl-C stops", markup=False)
        server.serve_forever()


VERB = Verb(
    label,
    (
        "ace-finetune label my-run --count 50",
        "ace-finetune label synthetic.jsonl --out judged.jsonl --web",
    ),
)
