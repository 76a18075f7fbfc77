"""AnswerLog: answers of a language model on disk, so that no call is repeated after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.utils.line_log import append_line, open_lines


def prompt_key(model: str, prompt: str) -> str:
    """Return the key of a call: a hash of the model's name and the prompt."""
    return hashlib.sha256(f"{model}\0{prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass
class AnswerLog:
    """A JSON Lines file with one answer per line, by key; open it with `AnswerLog.open`.

    A line is written as soon as its answer arrives. A line that a kill left incomplete is dropped.
    """

    path: Path
    answers: dict[str, str]
    _file: BinaryIO = field(repr=False)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[AnswerLog]:
        """Open or create a log; only one process may have it open.

        Raises:
            AceFinetuneError: if another process has it open, or the file is not such a log.
        """
        with open_lines(path) as (file, lines):
            answers = dict(_entry(path, number, line) for number, line in enumerate(lines, 1))
            yield cls(path, answers, file)

    def add(self, key: str, answer: str) -> None:
        """Write an answer; it survives a kill of this process."""
        append_line(self._file, json.dumps({"key": key, "answer": answer}).encode("ascii"))
        self.answers[key] = answer


def _entry(path: Path, number: int, line: bytes) -> tuple[str, str]:
    try:
        value = json.loads(line)
        key, answer = value["key"], value["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        key = answer = None
    if not (isinstance(key, str) and isinstance(answer, str)):
        raise AceFinetuneError(
            f"{str(path)!r}, line {number} is not a stored answer of a language model ({quoted(line[:60])}); give "
            "another output, or delete the file to call the model again."
        )
    return key, answer
