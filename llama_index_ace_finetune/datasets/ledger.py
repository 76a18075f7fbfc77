"""What reading and cleaning a dataset found, kept with the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One thing that was repaired, dropped or noticed, and where."""

    rule: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts per rule, with the first entries of each as examples.

    `format` names the reader that took the data; `counts` is complete, `entries` holds at most
    `EXAMPLES_PER_RULE` per rule.
    """

    format: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[LedgerEntry, ...] = ()


class LedgerBuilder:
    """Collects entries while a reader runs; `build` freezes them."""

    EXAMPLES_PER_RULE = 20

    def __init__(self, format: str) -> None:  # noqa: A002 - the field's own name
        self._format = format
        self._counts: Counter[str] = Counter()
        self._entries: list[LedgerEntry] = []

    def note(self, rule: str, where: object, detail: str = "") -> None:
        """Count one occurrence of `rule`; the first few keep their place, as `str(where)`, and detail."""
        self._counts[rule] += 1
        if self._counts[rule] <= self.EXAMPLES_PER_RULE:
            self._entries.append(LedgerEntry(rule=rule, where=str(where), detail=detail[:200]))

    def absorb(self, other: LedgerBuilder, prefix: str) -> None:
        """Take over what another builder noted, its rules named `prefix/rule`."""
        self._counts.update({f"{prefix}/{rule}": count for rule, count in other._counts.items()})
        self._entries.extend(
            LedgerEntry(rule=f"{prefix}/{entry.rule}", where=entry.where, detail=entry.detail)
            for entry in other._entries
        )

    def build(self) -> Ledger:
        """Return the ledger as collected so far."""
        return Ledger(format=self._format, counts=dict(self._counts), entries=tuple(self._entries))
