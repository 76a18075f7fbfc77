"""Error messages about files that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_index_ace_finetune.errors import AceFinetuneError, shortened


class UnusableFileError(ValueError):
    """Why a file cannot be used, to follow its name in a sentence: "is a folder", "is corrupt (...)"."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error message for a file that cannot be used: WHAT 'path' is ...; REMEDY.

    Attributes:
        what: kind of file, with its article.
        remedy: what the user can do.
        error: the class to raise.
    """

    what: str
    remedy: str
    error: type[AceFinetuneError] = AceFinetuneError

    def because(self, path: Path, reason: object) -> AceFinetuneError:
        """Return the error to raise; `reason` follows the path, as "is corrupt" does."""
        return self.error(
            f"{self.what} {shortened(repr(str(path)), 240)} {shortened(str(reason), 160)}; {self.remedy}."
        )
