"""How much a command says, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """How a command speaks.

    Attributes:
        quiet: results and errors alone, no progress.
        verbose: log what is done, and show where errors come from.
        as_json: results as JSON on standard output, all else on standard error.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


# A context variable, since every stage prints and none of them should have to hand this on.
_VOICE: ContextVar[Voice] = ContextVar("voice", default=Voice())  # noqa: B039 - it is frozen


def voice() -> Voice:
    """Return how the running command speaks."""
    return _VOICE.get()


@contextmanager
def speaking(**changes: bool) -> Iterator[None]:
    """Speak otherwise inside the block: `quiet`, `verbose`, `as_json`."""
    token = _VOICE.set(replace(_VOICE.get(), **changes))
    try:
        yield
    finally:
        _VOICE.reset(token)
