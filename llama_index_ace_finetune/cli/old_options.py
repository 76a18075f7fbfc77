"""Old spellings of options: accepted, but not shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

OLD_OPTIONS: Final[Mapping[str, str]] = {
    "--negatives": "--num-negatives",
    "--top-k": "--range-max",
    "--min-rank": "--range-min",
    "--selection": "--sampling-strategy",
    "--test-suite": "--data",
    "--finetuned-model": "--model",
    "--output": "--out",
    "--output-dir": "--out",
}


def renamed(args: Sequence[str], names: Collection[str]) -> list[str]:
    """Return a verb's arguments with today's spelling of its options, `names`; arguments after `--` stay."""
    words = list(args)
    for place in range(words.index("--") if "--" in words else len(words)):
        name, equals, value = words[place].partition("=")
        current = OLD_OPTIONS.get(name)
        if name in names or current not in names:
            continue
        if name == "--min-rank" and equals:
            value = _one_less(value)
        elif name == "--min-rank" and place + 1 < len(words):
            words[place + 1] = _one_less(words[place + 1])
        words[place] = f"{current}{equals}{value}"
    return words


def run_first(args: Sequence[str]) -> list[str]:
    """Return the arguments of `search QUERY --run RUN`, as it was, with the run folder as the first argument."""
    words = list(args)
    for place in range(words.index("--") if "--" in words else len(words)):
        name, equals, value = words[place].partition("=")
        if name == "--run" and (equals or place + 1 < len(words)):
            run = value if equals else words[place + 1]
            return [run, *words[:place], *words[place + (1 if equals else 2) :]]
    return words


def _one_less(first_rank: str) -> str:
    """Return the number of ranks before this one; a text that is not a number stays, and is rejected later."""
    return str(int(first_rank) - 1) if first_rank.isdecimal() else first_rank
