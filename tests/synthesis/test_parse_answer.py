"""parse_answer: whatever a language model answers becomes queries or a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.synthesis.parse_answer import Answer, parse_answer


@pytest.mark.parametrize(
    "text",
    [
        '["reset a lock", "stuck lock"]',
        '```json\n["reset a lock", "stuck lock"]\n```',
        'Here are the queries:\n```\n["reset a lock", "stuck lock"]\n```\nI hope this helps!',
        '{"queries": ["reset a lock", "stuck lock"]}',
        '[{"query": "reset a lock"}, {"question": "stuck lock"}]',
        "Sure, here they are:\n1. reset a lock\n2) stuck lock",
        '- "reset a lock"\n* “stuck lock”,',
        "Query: reset a lock\nQuestion 2: stuck lock",
        'The search query should be: "reset a lock"\nA second query: “stuck lock”.',
        "reset  a\tlock\nstuck lock\nreset a lock",
    ],
)
def test_usual_forms_of_an_answer(text: str) -> None:
    assert parse_answer(text, limit=5) == Answer(queries=("reset a lock", "stuck lock"))


@pytest.mark.parametrize("query", ['Error: "file not found"', "C: drive full", 'fatal: "origin" not a repository'])
def test_a_colon_of_a_query_stays(query: str) -> None:
    assert parse_answer(f"- {query}\n- other", limit=1).queries == (query.rstrip('"'),)


def test_limit() -> None:
    assert parse_answer("a b\nc d\ne f", limit=2).queries == ("a b", "c d")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("[]", "empty"),
        ("null", "empty"),
        ('[1, {"other": "x"}, null]', "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot write queries for this text.", "refusal"),
        ("As an AI language model, I ...", "refusal"),
        ("x" * 20_001, "too_long"),
    ],
)
def test_unusable_answers(text: str, reason: str) -> None:
    assert parse_answer(text, limit=3) == Answer(unusable=reason)  # type: ignore[arg-type]


def test_markup_and_control_characters_are_data() -> None:
    assert parse_answer("<script>alert(1)</script>\x1b[31m \x00 red", limit=1).queries == (
        "<script>alert(1)</script> [31m red",
    )


@given(st.text(max_size=120), st.integers(1, 5))
def test_any_answer_is_read(text: str, limit: int) -> None:
    answer = parse_answer(text, limit=limit)
    assert len(answer.queries) <= limit
    assert bool(answer.queries) != bool(answer.unusable)
    assert all(query.isprintable() and query == query.strip() and query for query in answer.queries)
