"""Read the queries from the answer of a language model, which may hold anything."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

Unusable = Literal["empty", "refusal", "too_long"]
MAX_ANSWER_CHARS: Final = 20_000
_FENCE: Final = re.compile(r"```[A-Za-z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_MARKER: Final = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,3}[.):])\s*")
_LABEL: Final = re.compile(r"^(?:search\s+)?(?:query|question|q)\s*\d{0,3}\s*:\s*", re.IGNORECASE)
_INTRODUCED: Final = re.compile(
    r'^[^"\u201c]{0,80}\b(?:quer(?:y|ies)|questions?|search)\b[^"\u201c]{0,40}:\s*["\u201c](.+)["\u201d][.,]?$',
    re.IGNORECASE,
)
_QUOTES: Final = "\"'\u201c\u201d\u2018\u2019`\u00ab\u00bb"
_REFUSAL: Final = re.compile(
    r"^\W*(?:i(?:'|\u2019| a)?m sorry|sorry\b|i can(?:(?:'|\u2019)?t|not)\b|i(?:'|\u2019| a)m (?:not able|unable)"
    r"|as an ai\b|i(?:'|\u2019| a)m an ai\b)",
    re.IGNORECASE,
)
_KEYS: Final = ("queries", "questions", "query", "question", "text")


@dataclass(frozen=True)
class Answer:
    """Queries of an answer, or why there are none."""

    queries: tuple[str, ...] = ()
    unusable: Unusable | None = None


def parse_answer(text: str, *, limit: int) -> Answer:
    """Return up to `limit` distinct queries of an answer: a JSON list, or one query per line.

    A code fence, list markers, labels such as "Query:", quotation marks and an introduction that ends with a colon are
    removed. The queries are data: control characters become spaces, and nothing in them is interpreted.
    """
    if len(text) > MAX_ANSWER_CHARS:
        return Answer(unusable="too_long")
    stripped = text.strip()
    if _REFUSAL.match(stripped):
        return Answer(unusable="refusal")
    fenced = _FENCE.search(stripped)
    body = fenced[1].strip() if fenced else stripped
    found = _from_json(body)
    queries = [_cleaned(query) for query in (_from_lines(body) if found is None else found)]
    distinct = tuple(dict.fromkeys(query for query in queries if query))[:limit]
    return Answer(queries=distinct) if distinct else Answer(unusable="empty")


def _from_json(body: str) -> list[str] | None:
    start, end = body.find("["), body.rfind("]")
    for part in (body, body[start : end + 1] if 0 <= start < end else ""):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return _strings(value)
    return None


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return next((_strings(value[key]) for key in _KEYS if key in value), [])
    if isinstance(value, list):
        return [text for one in value for text in ([one] if isinstance(one, str) else _of_object(one))]
    return [value] if isinstance(value, str) else []


def _of_object(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [text for text in (value.get(key) for key in _KEYS) if isinstance(text, str)][:1]


def _from_lines(body: str) -> list[str]:
    lines = [line.strip() for line in body.splitlines()]
    return [_unlabelled(_MARKER.sub("", line)) for line in lines if line and not line.endswith(":")]


def _unlabelled(line: str) -> str:
    """Return `query` of a line such as 'Query: query' or 'The search query is: "query"'."""
    introduced = _INTRODUCED.match(line)
    return introduced[1] if introduced else _LABEL.sub("", line)


def _cleaned(query: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in query)
    return " ".join(printable.split()).rstrip(",").strip(_QUOTES).strip()
