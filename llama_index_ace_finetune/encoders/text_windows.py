"""WindowEncoder: windows of the texts that a model would truncate, and their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.utils.surrogates import replace_lone_surrogates

_LEAST_TOKENS: Final = 16
"""A model that reads fewer tokens of a text has no useful windows."""
_MAX_CHARACTERS: Final = 400_000
"""Of a text: some hundred windows. What is beyond has none."""
_BATCH: Final = 256
_SENTENCE: Final = re.compile(r"[.!?]['\")\]]*\s+|[。！？]|\n+")
_WORD: Final = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """How long texts are split.

    Attributes:
        tokens: of a window; by default as many as the model reads.
        overlap: least fraction of a window that the next one repeats, at most twice as much.
    """

    tokens: int | None = None
    overlap: float = 0.125

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for a value out of range."""
        if self.tokens is not None and self.tokens < _LEAST_TOKENS:
            raise AceFinetuneError(f"The windows have {self.tokens} tokens; give {_LEAST_TOKENS} or more, or None.")
        if not 0 <= self.overlap <= 0.25:
            raise AceFinetuneError(f"The overlap of the windows is {self.overlap:g}; give a fraction from 0 to 0.25.")


class WindowEncoder:
    """Splits the texts that a model truncates into overlapping windows, and encodes these.

    The text itself is encoded by the model as always, up to its limit. The windows cover the rest: the first of them
    begins shortly before the limit. A window begins and ends with a sentence if one begins or ends near there, else
    with a word.

    Args:
        encoder: the model; windows have its document prompt.
        settings: how texts are split.
    """

    def __init__(self, encoder: Encoder, settings: WindowSettings | None = None) -> None:
        self.encoder, self.settings = encoder, settings or WindowSettings()

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the windows of a text and their vectors."""
        return f"{self.encoder.document_fingerprint}-windows-1-{self.settings.tokens}-{self.settings.overlap:g}"

    @property
    def limit(self) -> int | None:
        """The tokens of a text that the model reads, without special ones and prompt; None if texts are not split."""
        return None if self._tokens is None else self._tokens[1]

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the windows of each text; none of a text that the model reads to its end."""
        if self._tokens is None:
            return [[] for _ in texts]
        tokenizer, limit = self._tokens
        found: list[list[str]] = []
        for first in range(0, len(texts), _BATCH):
            batch = [replace_lone_surrogates(text[:_MAX_CHARACTERS]) for text in texts[first : first + _BATCH]]
            for text, encoding in zip(batch, tokenizer.encode_batch(batch, add_special_tokens=False), strict=True):
                # The offsets of a few long texts are most of the memory, so only theirs are kept.
                offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2) if len(encoding.ids) > limit else None
                found.append([] if offsets is None else self._windows(text, offsets, limit))
        return found

    def encode(
        self, windows: Sequence[str], *, cache: Path | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors of windows, float32 [n, d]; see `Encoder.encode`."""
        return self.encoder.encode(windows, role="document", cache=cache, progress=progress)

    def _windows(self, text: str, offsets: NDArray[np.int64], limit: int) -> list[str]:
        size = min(self.settings.tokens or limit, limit)
        margin = int(self.settings.overlap * size)
        borders = _Borders(text, offsets)
        windows, end = [], limit
        while end < len(offsets):
            start = borders.nearest(end - 2 * margin, end - margin)
            # Far enough for progress: a window is more than two margins longer than what it repeats.
            end = len(offsets) if start + size >= len(offsets) else borders.nearest(start + size - margin, start + size)
            windows.append(text[offsets[start, 0] : offsets[end - 1, 1]].strip())
        return [window for window in windows if window]

    @cached_property
    def _tokens(self) -> tuple[Tokenizer, int] | None:
        """A tokenizer that does not truncate, and the number of tokens of a text that the model reads."""
        found = self.encoder.document_tokenizer()
        if found is None:
            return None
        # A copy, since padding and truncation are settings of the object.
        tokenizer = Tokenizer.from_str(found[0].to_str())
        if (tokenizer.truncation or {}).get("direction", "right") != "right":
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        prompt = len(tokenizer.encode(self.encoder.document_prompt, add_special_tokens=False).ids)
        limit = found[1] - tokenizer.num_special_tokens_to_add(False) - prompt
        return (tokenizer, limit) if limit >= _LEAST_TOKENS else None


class _Borders:
    """The tokens of a text at which a sentence or a word begins, int64, ascending."""

    def __init__(self, text: str, offsets: NDArray[np.int64]) -> None:
        self._begins = [
            np.unique(np.searchsorted(offsets[:, 0], [match.end() for match in pattern.finditer(text)]))
            for pattern in (_SENTENCE, _WORD)
        ]

    def nearest(self, lowest: int, highest: int) -> int:
        """Return the last token of a range at which a sentence begins, else a word, else the last of the range."""
        for begins in self._begins:
            place = int(np.searchsorted(begins, highest, side="right")) - 1
            if place >= 0 and begins[place] >= lowest:
                return int(begins[place])
        return highest
