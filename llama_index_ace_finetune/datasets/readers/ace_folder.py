"""A folder with an ACE test suite and, optionally, its inventory."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.datasets.readers import ace_inventory, ace_suite, beir
from llama_index_ace_finetune.datasets.readers.json_document import JsonDocument
from llama_index_ace_finetune.errors import DatasetError


def find_ace_files(folder: Path) -> tuple[Path, Path | None]:
    """Return (test suite, inventory or None) of a folder; (the path itself, None) for any other path.

    Raises DatasetError if there are several test suites, or one with several inventories.
    """
    suites: list[Path] = []
    inventories: list[Path] = []
    if not folder.is_dir() or beir.is_beir_folder(folder):
        return folder, None
    for path in sorted(folder.glob("*.json")):
        document = JsonDocument.read(path)
        if ace_suite.is_ace_suite(document):
            suites.append(path)
        elif ace_inventory.is_ace_inventory(document):
            inventories.append(path)
    if len(suites) > 1 or (suites and len(inventories) > 1):
        several = suites if len(suites) > 1 else inventories
        raise DatasetError(f"{folder}: it holds {' and '.join(p.name for p in several)}; give the files themselves.")
    if not suites:
        return folder, None
    return suites[0], inventories[0] if inventories else None
