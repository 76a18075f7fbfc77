"""Write a configuration to start from."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.errors import OutputExistsError
from llama_index_ace_finetune.pipeline.config_file import config_text
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.console import show
from llama_index_ace_finetune.utils.new_folder import require_writable


def write_config(path: Path, *, data: str, out: str, force: bool = False) -> None:
    """Write the defaults of a run over `data`, with a comment on each, and say how to go on.

    Raises:
        OutputExistsError: if there is such a file and `force` is off.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{str(path)!r} is there already; give another --out, or replace it with --force.")
    require_writable(path)
    write_text(path, config_text(data=data, out=out))
    show(
        {"config": str(path)},
        lambda screen: screen.print(
            f"{path} is written; set data and out in it, then: ace-finetune run --config {path}", markup=False
        ),
    )
