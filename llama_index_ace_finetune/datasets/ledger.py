"""Cleaning log of a dataset: what was repaired, left out or noticed while reading it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_SHOWN_ENTRIES = 3
_SHOWN_RULES = frozenset(
    {
        "column_without_name_dropped",
        "delimiter_found",
        "document_id_is_metadata",
        "further_columns_ignored",
        "id_stands_for_several_texts",
        "judgement_of_unknown_id_left_out",
        "large_grades",
        "memories_not_used",
        "memory_joined_to_node",
        "memory_text_of_node_used",
        "own_document_left_out",
        "qrels_columns_found",
        "quotes_kept",
        "row_left_out",
        "score_threshold",
        "scores_read_as_similarities",
        "text_column_chosen",
        "text_column_holds_ids",
    }
)
"""Rules whose first entries are printed: a choice between two interpretations, or rows that are not used."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One thing that was repaired, dropped or noticed, and its location."""

    rule: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts per rule, with the first entries of each as examples.

    `format` names the reader of the data; `counts` is complete, `entries` holds at most
    `EXAMPLES_PER_RULE` per rule.
    """

    format: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[LedgerEntry, ...] = ()

    def lines(self) -> list[str]:
        """Return one line per rule: its count and, for rules in `_SHOWN_RULES`, the first entries."""
        found = []
        for rule, count in sorted(self.counts.items()):
            line = f"{rule}: {count:,}"
            if rule.removeprefix("memories/") in _SHOWN_RULES:
                first = [entry for entry in self.entries if entry.rule == rule][:_SHOWN_ENTRIES]
                shown = "; ".join(f"{entry.where}: {entry.detail}" for entry in first)
                line += f" ({shown}{'; ...' if count > len(first) else ''})"
            found.append(line)
        return found


class LedgerBuilder:
    """Collects entries while a reader runs; `build` freezes them."""

    EXAMPLES_PER_RULE = 20

    def __init__(self, format: str) -> None:  # noqa: A002 - the field's own name
        self.format = format
        self._counts: Counter[str] = Counter()
        self._entries: list[LedgerEntry] = []

    def note(self, rule: str, where: object, detail: str = "") -> None:
        """Count one occurrence of `rule`; the first few keep their location, as `str(where)`, and detail."""
        self._counts[rule] += 1
        if self._counts[rule] <= self.EXAMPLES_PER_RULE:
            self._entries.append(LedgerEntry(rule=rule, where=str(where), detail=detail[:200]))

    def count(self, rule: str) -> int:
        """Return how often a rule was noted."""
        return self._counts[rule]

    def first(self, rule: str) -> str:
        """Return the detail of the first entry of a rule, "" if there is none."""
        return next((entry.detail for entry in self._entries if entry.rule == rule), "")

    def first_location(self, rule: str) -> str:
        """Return the location of the first entry of a rule, "" if there is none."""
        return next((entry.where for entry in self._entries if entry.rule == rule), "")

    def absorb(self, other: LedgerBuilder, prefix: str) -> None:
        """Add the entries of another builder, with rules named `prefix/rule`."""
        self._counts.update({f"{prefix}/{rule}": count for rule, count in other._counts.items()})
        self._entries.extend(
            LedgerEntry(rule=f"{prefix}/{entry.rule}", where=entry.where, detail=entry.detail)
            for entry in other._entries
        )

    def build(self) -> Ledger:
        """Return the ledger of all entries so far."""
        return Ledger(format=self.format, counts=dict(self._counts), entries=tuple(self._entries))
