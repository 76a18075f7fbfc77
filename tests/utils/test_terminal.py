from __future__ import annotations

import io
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.utils.terminal import VisibleStream, json_visible, visible

UNSAFE = "\x1b\x9b\x07\x00\x7f\r\x85\u202e\u2066\u2028"
ANY_TEXT = st.text(alphabet=st.one_of(st.sampled_from(UNSAFE), st.characters()))


@given(ANY_TEXT)
def test_visible_text_has_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    assert visible(shown) == shown


def test_ordinary_text_is_unchanged() -> None:
    text = "Größe\tשלום 中文 👩‍💻\nnext line"
    assert visible(text) == text
    assert visible("\x1b[31m\u202e") == "\\x1b[31m\\u202e"


@given(ANY_TEXT)
def test_json_value_is_unchanged(text: str) -> None:
    assert json.loads(json_visible(json.dumps({"text": text}, ensure_ascii=False))) == {"text": text}


def test_stream_filters_output_of_libraries() -> None:
    inner = io.StringIO()
    stream = VisibleStream(inner)
    print("\x1b]0;title\x07 http://user:secret@host", file=stream)
    stream.write("\r 50 %")
    assert inner.getvalue() == "\\x1b]0;title\\x07 http://***@host\n\r 50 %"
    assert not stream.isatty()
