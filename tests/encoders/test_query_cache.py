from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from llama_index_ace_finetune.encoders.query_cache import QueryCache


class Counted:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def vector(self, cache: QueryCache, text: str, model: str = "m") -> list[float]:
        def compute() -> list[float]:
            self.texts.append(text)
            return [float(len(text)), float(len(model))]

        return cache.get(model, text, compute)


def test_vector_is_computed_once_and_copied() -> None:
    cache, counted = QueryCache(4), Counted()
    first = counted.vector(cache, "abc")
    first[0] = 99.0
    assert counted.vector(cache, "abc") == [3.0, 1.0]
    assert counted.texts == ["abc"]


def test_models_have_separate_vectors() -> None:
    cache, counted = QueryCache(4), Counted()
    assert counted.vector(cache, "abc") != counted.vector(cache, "abc", model="other")
    assert counted.texts == ["abc", "abc"]


def test_least_recently_used_is_evicted() -> None:
    cache, counted = QueryCache(2), Counted()
    for text in ("a", "b", "a", "c", "a", "b"):
        counted.vector(cache, text)
    assert counted.texts == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_size_0_disables_the_cache() -> None:
    cache, counted = QueryCache(0), Counted()
    counted.vector(cache, "a")
    counted.vector(cache, "a")
    assert counted.texts == ["a", "a"]
    assert len(cache) == 0


def test_concurrent_lookups() -> None:
    cache, counted = QueryCache(5), Counted()
    texts = ["x" * (number % 11) for number in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda text: counted.vector(cache, text), texts))
    assert vectors == [[float(len(text)), 1.0] for text in texts]
    assert len(cache) == 5
