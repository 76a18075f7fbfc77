"""The line of a value in a JSON text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets.source_location import JsonLocation, SourceLocation, line_of

_VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES, st.data())
def test_line_of_a_value(value: Any, data: st.DataObject) -> None:
    steps: list[str | int] = []
    inner = value
    while isinstance(inner, (list, dict)) and inner and data.draw(st.booleans()):
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        steps.append(data.draw(st.sampled_from(list(keys))))
        inner = inner[steps[-1]]
    text = json.dumps(value, indent=1)
    line = text.split("\n")[line_of(text, tuple(steps)) - 1].strip()
    start = json.dumps(inner, indent=1).split("\n")[0]
    assert line.rstrip(",").endswith(start)


def test_printed_locations() -> None:
    assert str(SourceLocation("a.csv", 3)) == "a.csv, line 3"
    assert str(SourceLocation("a.csv")) == "a.csv"
    text = '{"a": [1,\n {"b": 2}]}'
    assert str(JsonLocation("x.json", text).at("a", 1, "b")) == "x.json, line 2 (a[1].b)"
    assert str(JsonLocation("x.json", text).at("a", 7, "b")) == "x.json, line 1 (a[7].b)"
