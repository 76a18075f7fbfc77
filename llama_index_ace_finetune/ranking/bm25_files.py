"""A BM25 index as a folder: `index.json`, `vocabulary.json` and one .npy file per array."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.atomic import new_folder, write_json
from llama_index_ace_finetune.errors import AceFinetuneError, OutputExistsError, StoreError
from llama_index_ace_finetune.ranking.bm25_weights import BM25Settings
from llama_index_ace_finetune.ranking.postings import Postings
from llama_index_ace_finetune.ranking.tokenizer import TokenizerSettings

_FORMAT = "bm25-index-1"
_INDEX, _VOCABULARY = "index.json", "vocabulary.json"


@dataclass(frozen=True)
class Contents:
    """All that is saved of an index."""

    postings: Postings
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]
    vocabulary: dict[str, int]
    settings: BM25Settings
    tokenizer: TokenizerSettings


def write(folder: Path, contents: Contents) -> None:
    """Write an index aside and rename it into place.

    Raises OutputExistsError over anything that is no index, and StoreError where nothing can be written.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / _INDEX).is_file() or not any(folder.iterdir()))):
        raise OutputExistsError(f"{folder} holds something other than a BM25 index; choose another folder.")
    try:
        with new_folder(folder) as aside:
            _fill(aside, contents)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def _fill(folder: Path, contents: Contents) -> None:
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


def read(folder: Path) -> Contents:
    """Read an index, its arrays memory-mapped; raise StoreError for a file that is missing or damaged.

    Every byte is checked against its checksum once (about a second per GB), since a damaged array would otherwise
    answer with wrong scores.
    """
    index = _index(folder)
    checksums = index["checksums"]
    arrays = {
        name: _array(folder / f"{name}.npy", checksums.get(f"{name}.npy"))
        for name in ("starts", "rows", "counts", "lengths", "present", "idf", "weights")
    }
    idf, weights = arrays.pop("idf"), arrays.pop("weights")
    return Contents(
        postings=Postings(**arrays),
        idf=idf,
        weights=weights,
        vocabulary=_vocabulary(folder / _VOCABULARY, checksums.get(_VOCABULARY)),
        settings=index["settings"],
        tokenizer=index["tokenizer"],
    )


def _index(folder: Path) -> dict[str, Any]:
    path = folder / _INDEX
    if not path.is_file():
        raise StoreError(f"There is no BM25 index at {folder} ({_INDEX} is missing); build it and save it there.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != _FORMAT:
            raise StoreError(f"{path} has format {index['format']!r}, not {_FORMAT!r}; build the index again.")
        settings, tokenizer = BM25Settings(**index["settings"]), TokenizerSettings.from_json(index["tokenizer"])
        return {"settings": settings, "tokenizer": tokenizer, "checksums": dict(index["checksums"])}
    except StoreError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, AceFinetuneError) as error:
        raise _damaged(path, error) from error


def _array(path: Path, checksum: int | None) -> NDArray[Any]:
    try:
        # A plain view: slices of np.memmap itself are slow.
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        if zlib.crc32(array.data) != checksum:
            raise ValueError("its checksum differs")
        return array
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise _damaged(path, error) from error


def _vocabulary(path: Path, checksum: int | None) -> dict[str, int]:
    try:
        content = path.read_bytes()
        if zlib.crc32(content) != checksum:
            raise ValueError("its checksum differs")
        return {term: number for number, term in enumerate(json.loads(content))}
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({str(error).rstrip('.')})"
    return StoreError(f"{path} {reason}; build the BM25 index again.")
