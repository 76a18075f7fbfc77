"""Relevance: grades from a column of labels or scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "relevant", "positive", "correct", "ja", "sim", "sí", "oui", "はい"), 1.0),
    **dict.fromkeys(
        ("false", "no", "n", "irrelevant", "not relevant", "not_relevant", "non-relevant", "negative", "incorrect",
         "nein", "não", "non", "いいえ"), 0.0,
    ),
}  # fmt: skip
_LARGEST_GRADE = 10


@dataclass(frozen=True)
class Relevance:
    """How to interpret the values of one column.

    Attributes:
        threshold: the lowest value of a relevant pair; None if every value above 0 is relevant.
        rule: of the note in the ledger, "" if there is nothing to note.
        note: the interpretation, in words.
    """

    threshold: float | None = None
    rule: str = ""
    note: str = ""

    @classmethod
    def of(cls, column: str, values: Sequence[Any], min_score: float | None = None) -> Relevance:
        """Decide from all values: integers are grades, fractions are similarities."""
        numbers = [number for value in values if (number := as_number(value)) is not None and math.isfinite(number)]
        if not numbers:
            return cls()
        low, high = min(numbers), max(numbers)
        if min_score is not None:
            return cls(min_score, "score_threshold", f"{column}: {min_score:g} and above are relevant, as given")
        percent = any(isinstance(value, str) and value.strip().endswith("%") for value in values)
        if percent or any(number != int(number) for number in numbers):
            threshold = 0.0 if low < -1 else next((scale / 2 for scale in (1, 5, 10, 100) if high <= scale), high / 2)
            return cls(
                threshold,
                "scores_read_as_similarities",
                f"{column} holds fractions ({low:g} to {high:g}): {threshold:g} and above are relevant, others not "
                "judged; set another with --columns min_score=NUMBER",
            )
        if high > _LARGEST_GRADE:
            return cls(
                None,
                "large_grades",
                f"{column} holds integers up to {high:g}: all above 0 are relevant; "
                "set a threshold with --columns min_score=NUMBER",
            )
        return cls()

    def grade(self, number: float) -> float | None:
        """Return the grade of a pair: the number itself, or None if the pair is not judged."""
        if self.threshold is None or number >= self.threshold:
            # A score at or above the threshold is relevant, whatever its sign; a grade of 0 or less is not.
            return number if self.threshold is None or number > 0 else 1.0
        return number if number <= 0 else None


def as_number(value: Any) -> float | None:
    """Return a label as a number: 1, "0.5", "0,5", "92%", true, "yes"; None if it is none of these."""
    if isinstance(value, str):
        text = value.strip().casefold()
        if text in _WORDS:
            return _WORDS[text]
        is_percent = text.endswith("%")
        text = text.rstrip("% ").replace(",", ".") if text.count(",") == 1 and "." not in text else text.rstrip("% ")
        try:
            number = float(text)
        except ValueError:
            return None
        return number / 100 if is_percent else number
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
