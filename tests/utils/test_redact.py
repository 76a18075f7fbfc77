from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.utils.redact import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host:6333", "http://***@host:6333"),
        ("https://hunter2@host/path?x=1", "https://***@host/path?x=1"),
        ("http://host:6333/?api_key=hunter2&limit=3", "http://host:6333/?api_key=***&limit=3"),
        ("http://host/?limit=3&access_token=hunter2#top", "http://host/?limit=3&access_token=***#top"),
        ("http://host/?X-Amz-Signature=hunter2'", "http://host/?X-Amz-Signature=***'"),
        ("at 'http://a:hunter2@h' and 'grpc://b:hunter2@h'", "at 'http://***@h' and 'grpc://***@h'"),
        ("http://user:hunt@er2@host", "http://***@host"),
        ("http://user:hunter#2@host", "http://***@host"),
        ("http://user:hunt/er2@host", "http://***@host"),
        ("http://host:6333/collections/a@b", "http://host:6333/collections/a@b"),
        ("mail a:b@c or see http://host/page?q=x", "mail a:b@c or see http://host/page?q=x"),
    ],
)
def test_passwords_in_urls_are_replaced(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


@given(
    st.text(
        alphabet=st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="/?#'\"<>\\"), min_size=1
    )
)
def test_any_password_is_removed(password: str) -> None:
    url = f"http://user:Q{password}Q@host:6333/path"
    assert without_passwords(f"no answer from {url}.") == "no answer from http://***@host:6333/path."
