"""Names that differ only in their signs are different terms."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer, TokenizerSettings

NAMES = ("C", "C++", "C#", "F#", "F", ".NET", "net", "I/O", "IO", "AT&T", "R&D", "Q&A", "D", "A/B")


def test_signed_names_are_different_terms() -> None:
    terms = [tuple(Tokenizer()(name)) for name in NAMES]
    assert all(len(of_name) == 1 for of_name in terms)
    assert len(set(terms)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_signed_name_finds_the_text_about_it(name: str) -> None:
    index = BM25Index.build([f"Notes about {other}, for beginners." for other in NAMES])
    rows, _ = index.search(f"{name}?", 1)
    assert rows.tolist() == [NAMES.index(name)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("(C++/CLI)", ["c++", "cli"]),
        ("C++17's", ["c++17", "c++", "17", "s"]),
        ("C#12.", ["c#12", "c#", "12"]),
        ("ASP.NET and .net", ["asp", ".net", ".net"]),
        ("日本語C++入門", ["日", "本", "語", "日本", "本語", "c++", "入", "門", "入門"]),
        ("Über F# für R&D", ["über", "f#", "für", "r&d"]),
        ("I/O.", ["i/o"]),
        ("example.net", ["exampl", "net"]),
        ("docs/c/d", ["doc", "c", "d"]),
        ("?lang=de&to=fr&x=1", ["lang", "de", "fr", "x", "1"]),
        ("page#part #include", ["page", "part", "includ"]),
    ],
)
def test_terms_around_signs(text: str, terms: list[str]) -> None:
    assert Tokenizer()(text) == terms


def test_encode_equals_call() -> None:
    vocabulary: dict[str, int] = {}
    tokenizer = Tokenizer()
    texts = ["C++17 and C#", "plain words", "R&D over I/O", ""]
    numbers, offsets = tokenizer.encode(texts, vocabulary)
    terms = list(vocabulary)
    found = [[terms[n] for n in numbers[a:b]] for a, b in pairwise(offsets)]
    assert found == [tokenizer(text) for text in texts]


def test_index_without_the_setting_keeps_its_terms() -> None:
    saved = asdict(TokenizerSettings())
    assert TokenizerSettings.from_json(saved) == TokenizerSettings()
    del saved["signed_names"]
    before = TokenizerSettings.from_json(saved)
    assert before == replace(TokenizerSettings(), signed_names=False)
    assert Tokenizer(before)("C++ and C#") == ["c", "c"]


def test_token_pattern_replaces_signed_names() -> None:
    assert Tokenizer(TokenizerSettings(token_pattern=r"[a-z+]+"))("c++ x") == ["c++", "x"]
    assert Tokenizer(TokenizerSettings(token_pattern=r"\w+"))("c++ x") == ["c", "x"]
