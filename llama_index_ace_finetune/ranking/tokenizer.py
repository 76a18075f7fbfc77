"""Tokenizer for lexical search: from text to terms."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import Stemmer
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError

# Articles, pronouns, prepositions, auxiliaries and question words.
_ENGLISH = """
a about above after again against all am an and any are as at be because been before being below between both
but by can did do does doing down during each few for from further had has have having he her here hers herself
him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only
or other our ours ourselves out over own same she should so some such than that the their theirs them themselves
then there these they this those through to too under until up very was we were what when where which while who
whom why will with you your yours yourself yourselves
"""
ENGLISH_STOP_WORDS = frozenset(_ENGLISH.split())

# Vowel signs, accents and points inside words (Devanagari, Arabic, Hebrew, Thai and others), which `\w` does not match;
# without danda, the full stop of Indic scripts.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u0711-\u074a"
    "\u0900-\u0963\u0971-\u0dff\u0e31-\u0e4e\u0eb1-\u0ece\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3\u200c-\u200d"
)
# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana and Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"\w[\w{_MARKS}]*")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_SCRIPTS = re.compile(rf"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# snake_case, camelCase, HTTPServer, and the border of letters and digits: utf8, E1234.
_IDENTIFIER_JOINT = re.compile(
    r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"
)
# Names that need their signs: C++, C++17, C#, .NET, I/O, AT&T. Only texts with one of these signs are searched for
# such names.
_SIGNS = re.compile(r"\+\+|#|&|\b[A-Za-z]/[A-Za-z]\b|\.[Nn][Ee][Tt]\b", re.ASCII)
_NAME = (
    r"(?<![A-Za-z0-9_])[A-Za-z][A-Za-z0-9_]*\+\+[0-9]*(?![A-Za-z0-9_])"  # C++, g++, C++17
    r"|(?<![A-Za-z0-9_])[A-Za-z]\#[0-9]*(?![A-Za-z0-9_])"  # C#, F#, C#12
    r"|\.NET(?!\w)|(?<!\w)\.[Nn]et(?!\w)"  # .NET, ASP.NET; not example.net
    r"|(?<![\w/.])[A-Za-z]/[A-Za-z](?![\w/]|\.\w)"  # I/O, A/B; not a/b/c
    r"|(?<![\w&=?])[A-Za-z]{1,3}&[A-Za-z]{1,3}(?![\w&=;])"  # AT&T, R&D; not a=1&b=2
)
_SIGNED = re.compile(_NAME)
_NAME_OR_ASCII_WORD = re.compile(rf"{_NAME}|[A-Za-z0-9_]+")
_NAME_OR_WORD = re.compile(rf"{_NAME}|{_WORD.pattern}")
_VERSION = re.compile(r"(.*[+#])(\d+)")
_CACHE_LIMIT = 1 << 18


@dataclass(frozen=True)
class TokenizerSettings:
    """Tokenizer settings; saved with every index, since queries and documents must be tokenized alike.

    language: language of the stemmer (a name that PyStemmer knows) and of the stop words.
    stop_words: True drops the stop words of the language (there is a list for English only), False drops none, a tuple
        is the list. Compared after lower-casing, before stemming.
    stemming: Snowball stemming by PyStemmer.
    split_identifiers: `getUserName`, `get_user_name` and `E1234` give the whole and its parts (`getusername`, `get`,
        `user`, `name`), so that either finds the other.
    signed_names: `C++`, `C#`, `.NET`, `I/O` and `AT&T` are terms with their signs, not only their letters; a version
        (`C++17`) gives the name too.
    token_pattern: a regular expression that matches words, instead of runs of word characters.
    min_length: shorter terms are dropped.

    The defaults gave the best mean R@1 and MRR@10 on eight datasets (agent memories, dialogue, compiler
    errors, shell commands, Python functions, health, science).
    """

    language: str = "english"
    lowercase: bool = True
    stop_words: bool | tuple[str, ...] = True
    stemming: bool = True
    split_identifiers: bool = True
    signed_names: bool = True
    token_pattern: str | None = None
    min_length: int = 1

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for stop words that are neither a bool nor a tuple of strings."""
        words = self.stop_words
        if not (isinstance(words, bool) or (isinstance(words, tuple) and all(isinstance(w, str) for w in words))):
            raise AceFinetuneError(f"The stop words are {words!r}; give True, False or a tuple of strings.")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TokenizerSettings:
        """Create settings from the JSON form of `dataclasses.asdict`, where a tuple is a list."""
        stop_words = values.get("stop_words", True)
        # Indexes written before this setting existed have no such names.
        return cls(
            **{
                "signed_names": False,
                **values,
                "stop_words": tuple(stop_words) if isinstance(stop_words, list) else stop_words,
            }
        )


class Tokenizer:
    """Splits texts into terms: lower-cased, stemmed words, identifiers with their parts, CJK as unigrams and bigrams.

    Text that is not ASCII is normalised to NFKC first. Scripts written without spaces give character unigrams and
    bigrams, so that a query of one character finds something too.
    """

    def __init__(self, settings: TokenizerSettings | None = None) -> None:
        """Raise AceFinetuneError for a language that PyStemmer does not know, or an invalid regular expression."""
        self.settings = settings = settings or TokenizerSettings()
        self._stem = _stemmer(settings.language) if settings.stemming else _identity
        self._pattern = None if settings.token_pattern is None else _compiled(settings.token_pattern)
        self._stop_words = _stop_words(settings)
        self._cache: dict[str, tuple[str, ...]] = {}

    def __call__(self, text: str) -> list[str]:
        """Return the terms of one text, in order, with repeats."""
        known = self._cache
        if len(known) > _CACHE_LIMIT:
            known.clear()
        terms: list[str] = []
        for word in self._words(text):
            found = known.get(word)
            if found is None:
                found = known[word] = self._analyse(word)
            terms += found
        return terms

    def batch(self, texts: Iterable[str]) -> list[list[str]]:
        """Return the terms of each text."""
        return [self(text) for text in texts]

    def encode(self, texts: Iterable[str], vocabulary: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the concatenated term numbers of all texts, and the offset of each text.

        vocabulary: term -> number; new terms get the next numbers.
        Returns numbers int32 [n_terms] and offsets int64 [n_texts + 1].

        Each distinct word is analysed once; further occurrences are only looked up.
        """
        number_of: defaultdict[str, int] = defaultdict()
        number_of.default_factory = number_of.__len__
        look_up = number_of.__getitem__
        words = array("i")
        ends = array("q", [0])
        for text in texts:
            words.extend(map(look_up, self._words(text)))
            ends.append(len(words))

        # Word numbers -> term numbers: a word gives no term (a stop word), one, or several (an identifier).
        terms = array("i")
        term_ends = array("q", [0])
        for word in number_of:
            terms.extend([vocabulary.setdefault(term, len(vocabulary)) for term in self._analyse(word)])
            term_ends.append(len(terms))
        return _expand(
            np.frombuffer(words, np.int32), np.frombuffer(ends, np.int64),
            np.frombuffer(terms, np.int32), np.frombuffer(term_ends, np.int64),
        )  # fmt: skip

    def _words(self, text: str) -> list[str]:
        if self._pattern is not None:
            return self._pattern.findall(text if text.isascii() else unicodedata.normalize("NFKC", text))
        signed = self.settings.signed_names and _SIGNS.search(text) is not None
        if text.isascii():
            return (_NAME_OR_ASCII_WORD if signed else _ASCII_WORD).findall(text)
        text = unicodedata.normalize("NFKC", text)
        # In scripts without spaces a name has no space around it.
        return _NAME_OR_WORD.findall(_SIGNED.sub(r" \g<0> ", text)) if signed else _WORD.findall(text)

    def _analyse(self, word: str) -> tuple[str, ...]:
        """Analyse one word of a text."""
        if self._pattern is None and not _WORD.fullmatch(word):
            return self._terms_of_signed_name(word)
        if word.isascii() or not _HAS_UNSPACED.search(word):
            return self._terms_of_run(word)
        terms: list[str] = []
        for run in _SCRIPTS.findall(word):
            if _HAS_UNSPACED.match(run):
                terms += run
                terms += map("".join, pairwise(run))
            else:
                terms += self._terms_of_run(run)
        return tuple(term for term in terms if len(term) >= self.settings.min_length)

    def _terms_of_signed_name(self, name: str) -> tuple[str, ...]:
        if self.settings.lowercase:
            name = name.lower()
        terms = (name, *found.groups()) if (found := _VERSION.fullmatch(name)) else (name,)
        return tuple(term for term in terms if len(term) >= self.settings.min_length)

    def _terms_of_run(self, word: str) -> tuple[str, ...]:
        parts = [word]
        # Most words are plain letters, which cannot be split.
        if self.settings.split_identifiers and not (word.isalpha() and word[1:].islower()):
            parts = [part for part in _IDENTIFIER_JOINT.split(word) if part]
            if len(parts) > 1:
                parts.insert(0, "".join(parts))
        if self.settings.lowercase:
            parts = [part.lower() for part in parts]
        kept = (part for part in parts if part not in self._stop_words)
        return tuple(term for term in map(self._stem, kept) if len(term) >= self.settings.min_length)


def _expand(
    words: NDArray[np.int32], ends: NDArray[np.int64], terms: NDArray[np.int32], term_ends: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Replace each word number w by terms[term_ends[w]:term_ends[w + 1]], and adapt the offsets `ends` of the texts."""
    counts = np.diff(term_ends)[words]
    before = np.zeros(len(words) + 1, np.int64)
    np.cumsum(counts, out=before[1:])
    source = np.repeat(term_ends[words] - before[:-1], counts)
    source += np.arange(len(source))
    return terms[source], before[ends]


def _stop_words(settings: TokenizerSettings) -> frozenset[str]:
    if isinstance(settings.stop_words, tuple):
        return frozenset(settings.stop_words)
    # "porter" is an older English stemmer of PyStemmer.
    return ENGLISH_STOP_WORDS if settings.stop_words and settings.language in ("english", "porter") else frozenset()


def _identity(word: str) -> str:
    return word


def _stemmer(language: str) -> Callable[[str], str]:
    if language not in Stemmer.algorithms():
        raise AceFinetuneError(
            f"There is no stemmer for language {language!r}; choose one of {', '.join(Stemmer.algorithms())}, "
            "or set stemming to False."
        )
    stem: Callable[[str], str] = Stemmer.Stemmer(language, 0).stemWord
    return stem


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise AceFinetuneError(
            f"The token pattern {pattern!r} is not a regular expression ({error}); fix it or leave it out."
        ) from error
    if compiled.groups > 1:
        raise AceFinetuneError(
            f"The token pattern {pattern!r} has {compiled.groups} groups, but only one can capture the word; "
            "write the others as (?:...)."
        )
    return compiled
