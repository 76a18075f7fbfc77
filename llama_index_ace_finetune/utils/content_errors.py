"""Report errors that are caused by the content of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from llama_index_ace_finetune.errors import first_line
from llama_index_ace_finetune.utils.file_errors import Refusal


@contextlib.contextmanager
def of_content(path: Path, refusal: Refusal) -> Iterator[None]:
    """Refuse a file if the block fails on its parsed content: values missing, of a wrong type or of a wrong size.

    For blocks that only compute from the content, such as rendering a report, where a schema would repeat the whole
    template.

    Raises:
        AceFinetuneError: the refusal's own class.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (
        TemplateError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise refusal.because(path, f"is damaged ({type(error).__name__}: {first_line(error)})") from error
