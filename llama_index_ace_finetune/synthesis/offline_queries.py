"""OfflineGenerator: queries from a memory's own title, sentences and key phrases, without a language model."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from llama_index_ace_finetune.ranking.tokenizer import Tokenizer

_TITLES: Final = ("title", "heading", "header", "header_path", "section", "question", "name", "subject")
_SENTENCE: Final = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
_WORD: Final = re.compile(r"\w[\w'+#.-]*\w|\w")
_KEY_WORDS: Final = 5
_CROP: Final = (4, 10)  # words of a cropped span
_TYPO_RATE: Final = 0.15
_MIN_WORD: Final = 5  # a typing error in a shorter word leaves little of it


class OfflineGenerator:
    """Makes queries from a memory and the word statistics of the corpus; the same for the same seed.

    They share the memory's words, so they teach a model less than the queries of users. In this order: the title, the
    key words (highest inverse document frequency, in order of occurrence), the start of the first sentence, and random
    spans of sentences (inverse cloze task, Lee et al., 2019). Some words get a typing error.

    Args:
        corpus: texts of all memories.
        seed: random seed.
    """

    def __init__(self, corpus: Sequence[str], *, seed: int = 0) -> None:
        self._tokenizer = Tokenizer()
        self._seed = seed
        frequency: Counter[str] = Counter()
        for terms in self._tokenizer.batch(corpus):
            frequency.update(set(terms))
        self._idf = {term: math.log(1 + len(corpus) / (1 + count)) for term, count in frequency.items()}

    def queries(self, text: str, metadata: Mapping[str, Any], *, count: int) -> list[str]:
        """Return up to `count` distinct queries of one memory."""
        digest = hashlib.sha256(f"{self._seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
        random = Random(digest)
        sentences = [sentence for sentence in _SENTENCE.split(text) if _WORD.search(sentence)]
        if not sentences:
            return []
        made = [*_titles(metadata), self._key_words(text), _crop(sentences[0], 0, _CROP[1])]
        for _ in range(4 * count):
            made.append(_random_span(random.choice(sentences), random))
        distinct = dict.fromkeys(query for query in made if query)
        return [_with_typing_error(query, random) for query in list(distinct)[:count]]

    def _key_words(self, text: str) -> str:
        best: dict[str, float] = {}
        for word in dict.fromkeys(_WORD.findall(text)):
            terms = self._tokenizer(word)
            if terms:
                best[word] = max(self._idf.get(term, 0.0) for term in terms)
        chosen = set(sorted(best, key=lambda word: -best[word])[:_KEY_WORDS])
        return " ".join(word for word in best if word in chosen)


def _titles(metadata: Mapping[str, Any]) -> list[str]:
    values = (metadata.get(name) for name in _TITLES)
    return [" ".join(value.replace("/", " ").split()) for value in values if isinstance(value, str) and value.strip()]


def _crop(sentence: str, start: int, length: int) -> str:
    return " ".join(_WORD.findall(sentence)[start : start + length])


def _random_span(sentence: str, random: Random) -> str:
    words = len(_WORD.findall(sentence))
    length = random.randint(*_CROP)
    return _crop(sentence, random.randint(0, max(0, words - length)), length)


def _with_typing_error(query: str, random: Random) -> str:
    """Swap two neighbouring letters of one word in some queries."""
    words = query.split()
    long = [place for place, word in enumerate(words) if len(word) >= _MIN_WORD and word.isalpha()]
    if not long or random.random() >= _TYPO_RATE:
        return query
    place = random.choice(long)
    word = words[place]
    at = random.randint(1, len(word) - 3)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
