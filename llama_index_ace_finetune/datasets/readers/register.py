"""All data formats."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from llama_index_ace_finetune.datasets.readers.reader import Reader

FORMATS: Final = (
    "ace_suite",
    "qa_dataset",
    "ace_playbook",
    "ace_inventory",
    "beir",
    "llama_nodes",
    "llama_docstore",
    "memory_objects",
    "memories",
    "pairs",
)
"""In the order in which they are tried; `memories` and `pairs` come last, as they also read tables that others know."""

READERS: Final[tuple[Reader, ...]] = tuple(import_module(f"{__package__}.{name}").READER for name in FORMATS)
