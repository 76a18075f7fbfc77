from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.ranking.tokenizer import ENGLISH_STOP_WORDS, Tokenizer, TokenizerSettings

PLAIN = TokenizerSettings(stop_words=False, stemming=False, split_identifiers=False)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The caches are being flushed", ["cach", "flush"]),
        ("getUserName", ["getusernam", "get", "user", "name"]),
        ("get_user_name", ["getusernam", "get", "user", "name"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("error E1234", ["error", "e1234", "e", "1234"]),
        ("/var/log/nginx.conf", ["var", "log", "nginx", "conf"]),
        ("is_valid", ["isvalid", "valid"]),
        ("__init__", ["init"]),
        ("___ -- !", []),
        ("", []),
        ("   \n\t", []),
        ("ＡＢＣ ﬁles", ["abc", "file"]),
        ("猫", ["猫"]),
        ("東京都", ["東", "京", "都", "東京", "京都"]),
        ("Python3入門", ["python3", "python", "3", "入", "門", "入門"]),
        ("हिन्दी में।", ["हिन्दी", "में"]),
        ("한국어 토큰", ["한국어", "토큰"]),
        ("Привет, мир", ["привет", "мир"]),
        ("🙂 ok", ["ok"]),
    ],
)
def test_terms_of_a_text(text: str, terms: list[str]) -> None:
    assert Tokenizer()(text) == terms


def test_each_setting() -> None:
    text = "The Users of get_name"
    assert Tokenizer(PLAIN)(text) == ["the", "users", "of", "get_name"]
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "lowercase": False}))(text) == [
        "The", "Users", "of", "get_name",
    ]  # fmt: skip
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "stemming": True}))(text) == ["the", "user", "of", "get_nam"]
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "stop_words": True}))(text) == ["users", "get_name"]
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "stop_words": ("users",)}))(text) == ["the", "of", "get_name"]
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "min_length": 4}))(text) == ["users", "get_name"]
    assert Tokenizer(TokenizerSettings(**{**vars(PLAIN), "token_pattern": r"[a-z]+"}))(text) == [
        "he", "sers", "of", "get", "name",
    ]  # fmt: skip


def test_language_selects_stemmer_and_stop_words() -> None:
    assert Tokenizer(TokenizerSettings(language="german"))("Die Häuser the") == ["die", "haus", "the"]
    assert "the" in ENGLISH_STOP_WORDS


def test_min_length_applies_to_scripts_without_spaces() -> None:
    assert Tokenizer(TokenizerSettings(min_length=2))("東京都") == ["東京", "京都"]


def test_unknown_language_is_refused_only_if_stemming() -> None:
    with pytest.raises(AceFinetuneError, match=r"'klingon'; choose one of .*english"):
        Tokenizer(TokenizerSettings(language="klingon"))
    assert Tokenizer(TokenizerSettings(language="klingon", stemming=False))("Qapla!") == ["qapla"]


@pytest.mark.parametrize("pattern", ["(", "(a)(b)"])
def test_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(AceFinetuneError, match="token pattern"):
        Tokenizer(TokenizerSettings(token_pattern=pattern))


@pytest.mark.parametrize("stop_words", ["english", ["a"], (1,), None])
def test_bad_stop_words_are_refused(stop_words: object) -> None:
    with pytest.raises(AceFinetuneError, match="stop words"):
        TokenizerSettings(stop_words=stop_words)  # type: ignore[arg-type]


TEXTS = st.lists(st.text(st.sampled_from("abcXYZ_019 .-'éß東京ไทहि\ud800") | st.characters(), max_size=30), max_size=6)


@settings(max_examples=150)
@given(TEXTS)
def test_encode_returns_the_terms_of_each_text(texts: list[str]) -> None:
    tokenizer = Tokenizer()
    vocabulary: dict[str, int] = {"already": 0}
    numbers, offsets = tokenizer.encode(texts, vocabulary)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    terms = list(vocabulary)
    decoded = [[terms[n] for n in numbers[a:b]] for a, b in pairwise(offsets)]
    assert decoded == tokenizer.batch(texts) == [tokenizer(text) for text in texts]
    assert numbers.dtype == np.int32
    assert offsets.dtype == np.int64


@given(TEXTS)
def test_case_and_width_do_not_matter_without_identifier_splitting(texts: list[str]) -> None:
    tokenizer = Tokenizer(TokenizerSettings(split_identifiers=False))
    for text in texts:
        if text.isascii():
            assert tokenizer(text) == tokenizer(text.upper())


def test_full_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_ace_finetune.ranking.tokenizer._CACHE_LIMIT", 10)
    tokenizer = Tokenizer()
    for i in range(100):
        assert tokenizer(f"word{i}") == [f"word{i}", "word", str(i)]
    assert len(tokenizer._cache) <= 11
