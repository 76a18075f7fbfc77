"""Saving a BM25 index as a folder: `index.json`, `vocabulary.json` and one .npy file per array."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError, StoreError, quoted
from llama_index_ace_finetune.ranking.bm25_weights import BM25Settings
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.tokenizer import TokenizerSettings
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.new_folder import new_folder
from llama_index_ace_finetune.utils.read_array import dtypes, read_array_file
from llama_index_ace_finetune.utils.read_json import read_json_file, read_json_object
from llama_index_ace_finetune.utils.validation import checked

_FORMAT = "bm25-index-1"
_INDEX, _VOCABULARY = "index.json", "vocabulary.json"
_DAMAGED = Refusal("The file", "build the BM25 index again", StoreError)
_MAX_VOCABULARY_BYTES = 2**30
_DTYPES = {
    "starts": dtypes(np.int64),
    "rows": dtypes(np.int32),
    "counts": dtypes(np.int32),
    "lengths": dtypes(np.int32),
    "present": dtypes(np.bool_),
    "idf": dtypes(np.float64),
    "weights": dtypes(np.float64),
}


@dataclass(frozen=True)
class IndexContents:
    """Saved parts of an index."""

    postings: Postings
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]
    vocabulary: dict[str, int]
    settings: BM25Settings
    tokenizer: TokenizerSettings


def write(folder: Path, contents: IndexContents) -> None:
    """Write an index to a temporary folder and rename it.

    Raises OutputExistsError if the folder holds anything but an index, and StoreError if it cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / _INDEX).is_file() or not any(folder.iterdir()))):
        raise OutputExistsError(f"{folder} holds something other than a BM25 index; choose another folder.")
    with new_folder(folder, kind="BM25 index", wait=True) as aside:
        try:
            _write_files(aside, contents)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def _write_files(folder: Path, contents: IndexContents) -> None:
    arrays = {**vars(contents.postings), "idf": contents.idf, "weights": contents.weights}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    vocabulary = json.dumps(list(contents.vocabulary)).encode()
    (folder / _VOCABULARY).write_bytes(vocabulary)
    checksums = {f"{name}.npy": zlib.crc32(array.data) for name, array in arrays.items()}
    write_json(
        folder / _INDEX,
        {
            "format": _FORMAT,
            "settings": asdict(contents.settings),
            "tokenizer": asdict(contents.tokenizer),
            "checksums": {**checksums, _VOCABULARY: zlib.crc32(vocabulary)},
        },
    )


def read(folder: Path) -> IndexContents:
    """Read an index with memory-mapped arrays; raise StoreError if a file is missing or damaged.

    All checksums are verified (about a second per GB), since a damaged array would give wrong scores.
    """
    index = _index(folder)
    arrays = {name: _array(folder / f"{name}.npy", index) for name in _DTYPES}
    idf, weights = arrays.pop("idf"), arrays.pop("weights")
    contents = IndexContents(
        postings=Postings(**arrays),
        idf=idf,
        weights=weights,
        vocabulary=_vocabulary(folder / _VOCABULARY, index),
        settings=index.settings,
        tokenizer=index.tokenizer,
    )
    _require_consistent(folder, contents)
    return contents


@dataclass(frozen=True)
class _Index:
    """Contents of `index.json`."""

    format: str
    settings: BM25Settings
    tokenizer: TokenizerSettings
    checksums: dict[str, int]


def _index(folder: Path) -> _Index:
    path = folder / _INDEX
    if not path.is_file():
        raise StoreError(f"There is no BM25 index at {folder} ({_INDEX} is missing); build it and save it there.")
    content = read_json_object(path, _DAMAGED)
    if content.get("format") != _FORMAT:
        raise StoreError(f"{path} has format {quoted(content.get('format'))}, not {_FORMAT!r}; build the index again.")
    try:
        return checked(content, _Index, path, _DAMAGED)
    except StoreError:
        raise
    except AceFinetuneError as error:  # a setting out of its range
        raise _DAMAGED.because(path, f"is damaged ({str(error).rstrip('.')})") from error


def _array(path: Path, index: _Index) -> NDArray[Any]:
    array = read_array_file(path, _DAMAGED, dtypes=_DTYPES[path.stem], dimensions=1, mapped=True)
    if zlib.crc32(array.data) != index.checksums.get(path.name):
        raise _DAMAGED.because(path, "is damaged (its checksum differs)")
    return array


def _vocabulary(path: Path, index: _Index) -> dict[str, int]:
    terms = read_json_file(path, _DAMAGED, max_bytes=_MAX_VOCABULARY_BYTES, checksum=index.checksums.get(path.name, -1))
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise _DAMAGED.because(path, "is damaged (it is not a list of terms)")
    return {term: number for number, term in enumerate(terms)}


def _require_consistent(folder: Path, contents: IndexContents) -> None:
    """Refuse inconsistent arrays: a valid checksum does not prove that `write` wrote the file."""
    postings = contents.postings
    starts, rows = postings.starts, postings.rows
    consistent = (
        len(starts) == len(contents.vocabulary) + 1 == len(contents.idf) + 1
        and len(rows) == len(postings.counts) == len(contents.weights)
        and len(postings.lengths) == len(postings.present)
        and (starts[0], starts[-1]) == (0, len(rows))
        and bool((np.diff(starts) >= 0).all())
        and (not len(rows) or (rows.min() >= 0 and rows.max() < postings.n_rows))
    )
    if not consistent:
        raise _DAMAGED.because(folder, "is damaged (its arrays are inconsistent)")
