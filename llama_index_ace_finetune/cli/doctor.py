"""`doctor`: check the machine and the installation, or remove what killed commands left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import EXIT_REJECTED, execute
from llama_index_ace_finetune.cli.options import AsJson, BaseModel
from llama_index_ace_finetune.cli.verb import Verb


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Run folder, to check its index too; with --clean: folder to search, with its subfolders."),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what killed commands left; --resume can then not resume them.")
    ] = False,
    base_model: BaseModel = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, hardware and backends, and what is missing."""
    execute(lambda: _clean(folder or Path()) if clean else _check(base_model, folder), as_json=as_json)


def _check(base_model: str | None, run: Path | None) -> int:
    from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
    from llama_index_ace_finetune.pipeline.check_index import check_index
    from llama_index_ace_finetune.pipeline.doctor import check_environment

    checked = None if run is None else check_index(run)
    found = check_environment(base_model or DEFAULT_BASE_MODEL)
    if checked is not None:
        found["run"] = checked
        for name in ("problems", "advice"):
            found[name] += checked.pop(name)
    emit(found, lambda screen: _print(found, screen))
    return EXIT_REJECTED if found["problems"] else 0


def _clean(folder: Path) -> int:
    from llama_index_ace_finetune.pipeline.leftovers import remove_leftovers

    removed = remove_leftovers(folder)
    total = sum(one.bytes for one in removed)
    lines = [f"removed {one.path} ({one.bytes:,} bytes)" for one in removed]
    lines.append(f"{len(removed)} removed below {folder}, {total:,} bytes in total")
    emit(
        {"removed": [{"path": str(one.path), "bytes": one.bytes} for one in removed], "bytes": total},
        lambda screen: screen.print("\n".join(lines), markup=False),
    )
    return 0


def _print(found: dict[str, Any], screen: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _lines(found):
        table.add_row(label, escape(value))
    screen.print(table)
    for problem in found["problems"]:
        screen.print("[bold red]missing:[/] ", end="")
        screen.print(problem, markup=False)
    for advice in found["advice"]:
        screen.print("[yellow]hint:[/] ", end="")
        screen.print(advice, markup=False)
    if not found["problems"]:
        screen.print("[bold green]ready[/]")


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    processor, gpu, hub, base = found["processor"], found["gpu"], found["hub"], found["base_model"]
    yield "version", f"{found['version']}, Python {found['python']}, {found['system']}"
    yield "executable", sys.executable
    for name, state in found["packages"].items():
        yield name, f"{state['installed'] or 'missing'}{'' if state['fits'] else ' (wanted: ' + state['wanted'] + ')'}"
    flags = ", ".join(processor.get("flags") or []) or processor.get("vector_unit", "unknown")
    yield "processor", f"{processor['cores']} cores, {processor.get('threads', '?')} threads; {flags}"
    if "precision" in processor:
        yield "precision", f"{processor['precision']} (bfloat16 where the processor computes in it)"
    if found["memory"]:
        yield "memory", ", ".join(f"{value:g} GB {name}" for name, value in found["memory"].items())
    yield "GPU", ", ".join(gpu["names"]) or ("Apple" if gpu["device"] == "mps" else "none")
    yield "hub", f"{hub['address']} {'reachable' if hub['reachable'] else 'not reachable: ' + str(hub['why'])}"
    yield "base model", f"{base['name']}: {base['folder'] or 'not here, comes from the hub'}"
    if base["folder"]:
        yield "prompts", ", ".join(f"{role} {base[f'{role}_prompt'] or 'none'!r}" for role in ("query", "document"))
    for name, extra in found["extras"].items():
        yield f"extra {name}", "installed" if extra["installed"] else f"not installed ({extra['gives']})"
    if run := found.get("run"):
        yield "run", f"{run['folder']}: {'?' if run['memories'] is None else run['memories']} memories"
        yield "token vectors", run["token_vectors"]
        yield "sparse vectors", run["sparse_vectors"]
        yield "long texts", run["truncated"]
        yield "windows", run["windows"]


VERB = Verb(doctor, ("ace-finetune doctor", "ace-finetune doctor my-run"))
