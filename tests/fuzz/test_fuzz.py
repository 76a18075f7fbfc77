"""Mutated files of every kind are read, or refused with one short sentence, within seconds and little memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # only here: as a package, `readers` would be another one

from mutations import mutations
from readers import DATA_READERS, READERS

from llama_index_ace_finetune.datasets.readers.register import FORMATS
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import MAX_MESSAGE, AceFinetuneError

QUICK, ALL = 100, 1000
SECONDS, MEGABYTES = 10, 1000


def _faults(name: str, folder: Path, *, count: int, seed: int) -> list[str]:
    """Read `count` changed files of a kind; return what was raised besides the package's own error."""
    reader = READERS[name]
    files = reader.make(folder)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reader.read(folder)
    faults = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    each = -(-count // len(files))
    for number, file in enumerate(files):
        for kind, content in mutations(whole[file], seed=seed + number, count=each):
            for path, original in whole.items():
                if path != file and (not path.is_file() or path.stat().st_size != len(original) or reader.after):
                    path.write_bytes(original)
            file.write_bytes(content)
            if reader.after:
                reader.after(folder, file)
            begun = time.perf_counter()
            try:
                reader.read(folder)
            except AceFinetuneError as error:
                if len(str(error)) > MAX_MESSAGE or not str(error).strip():
                    faults.append(f"{file.name}, {kind}: a message of {len(str(error))} characters")
            except Exception as error:
                faults.append(f"{file.name}, {kind}: {type(error).__name__}: {str(error)[:120]}")
            if time.perf_counter() - begun > SECONDS:
                faults.append(f"{file.name}, {kind}: {time.perf_counter() - begun:.0f} seconds")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    if grown > MEGABYTES:
        faults.append(f"{grown} MB")
    return faults


def test_every_data_format_is_mutated(tmp_path: Path) -> None:
    found = set()
    for name, reader in DATA_READERS.items():
        folder = tmp_path / name
        folder.mkdir()
        reader.make(folder)
        dataset = reader.read(folder)
        assert isinstance(dataset, RetrievalDataset)
        found.add(dataset.ledger.format)
    assert found == {*FORMATS} - {"llama_nodes", "memory_objects"}  # objects, not files


@pytest.mark.parametrize("name", READERS)
def test_some_mutated_files(name: str, tmp_path: Path) -> None:
    assert _faults(name, tmp_path, count=int(QUICK * READERS[name].fraction), seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_mutated_files(name: str, tmp_path: Path) -> None:
    assert _faults(name, tmp_path, count=ALL, seed=1000) == []
