"""Convert all errors of opening a model to ModelError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, first_line, quoted, shortened


@contextmanager
def opening(name: str | Path) -> Iterator[None]:
    """Raise ModelError for any error in the block; errors of this package pass unchanged.

    transformers, tokenizers, safetensors and the file system have no common error class.
    """
    try:
        yield
    except AceFinetuneError:
        raise
    except Exception as error:
        file = getattr(error, "filename", None)
        about = f"{error.strerror}: {file}" if isinstance(error, OSError) and error.strerror else first_line(error)
        raise ModelError(
            f"The model {quoted(str(name), 200)} cannot be opened ({shortened(about, 200)}); check that its files can "
            "be read, or copy or train the model again."
        ) from error
