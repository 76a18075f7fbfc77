"""Synthesizer, filters and the offline generator."""

import re
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.synthesis.filter_queries import copied_fraction, copied_limit, filter_queries
from llama_index_ace_finetune.synthesis.offline_queries import OfflineGenerator
from llama_index_ace_finetune.synthesis.prompt import PromptTemplate
from llama_index_ace_finetune.synthesis.select_memories import select_memories
from llama_index_ace_finetune.synthesis.settings import SynthesisSettings
from llama_index_ace_finetune.synthesis.synthesize import Synthesizer
from tests.helpers.scripted_llm import ScriptedLLM

CORPUS = [
    "Restart the print spooler before you reinstall a printer driver.",
    "Rotate database credentials every ninety days and revoke old ones.",
    "Use exponential backoff when the payment gateway answers with status 429.",
    "A stale lock file blocks the nightly backup; delete it and start the job again.",
]


def dataset(queries: int = 0) -> RetrievalDataset:
    """Four memories without a query, and one more memory for each of `queries`."""
    asked = {f"asked{n}": Memory(f"asked{n}", f"Fact {n} about subject {n * 7919}.") for n in range(queries)}
    return RetrievalDataset(
        "notes",
        {f"m{n}": Memory(f"m{n}", text) for n, text in enumerate(CORPUS)} | asked,
        {f"q{n}": Query(f"q{n}", f"Held topic {n} asks about thing number {n * 104729}") for n in range(queries)},
        {f"q{n}": {f"asked{n}": 1.0} for n in range(queries)},
    )


class TestFilters:
    SETTINGS = SynthesisSettings(min_words=2, max_words=6, round_trip=2)

    def kept(self, queries: list[str], **options: object) -> tuple[int, ...]:
        rows = [0] * len(queries)
        return filter_queries(queries, rows, CORPUS, settings=self.SETTINGS, **{"known": [], **options}).kept  # type: ignore[arg-type]

    def test_length(self) -> None:
        assert self.kept(["printer", "printer stuck", "a b c d e f g"]) == (1,)

    def test_words_of_scripts_without_spaces_are_counted(self) -> None:
        assert self.kept(["打印机卡住了", "打"]) == (0,)

    def test_copied(self) -> None:
        assert copied_fraction("restart the printer queue", CORPUS[0]) == 0.75
        queries = ["restart the print spooler", "my pages never come out"]
        assert self.kept(queries, max_copied=0.75) == (1,)

    def test_near_duplicates_of_the_memory(self) -> None:
        queries = [CORPUS[0].upper(), "restart the print spooler before you reinstall"]
        settings = SynthesisSettings(near_duplicate=0.8, round_trip=None)
        # The memory has 10 different words, and the second query 7 of them: .7.
        found = filter_queries(queries, [0, 0], CORPUS, known=[], settings=settings, drop_copies=True)
        assert (found.kept, found.counts) == ((1,), {"copied": 1})
        assert filter_queries(queries, [0, 0], CORPUS, known=[], settings=settings).kept == (0, 1)

    def test_loops_of_a_small_model(self) -> None:
        loop = "the lock is stuck the lock is stuck"
        settings = SynthesisSettings(round_trip=None)
        found = filter_queries([loop, "is the lock stuck", f"why {loop}"], [0] * 3, CORPUS, known=[], settings=settings)
        assert (found.kept, found.counts) == ((1, 2), {"repetitive": 1})

    def test_copied_limit_is_the_90th_percentile(self) -> None:
        pairs = [("a b", "a"), ("a b", "a b"), *[("a b", "c")] * 18]
        assert copied_limit(pairs) == pytest.approx(np.quantile([0.5, 1.0, *[0.0] * 18], 0.9))
        assert copied_limit([]) is None

    def test_near_duplicates(self) -> None:
        queries = ["printer driver does not install", "Printer driver does not install!", "how to install a driver"]
        assert self.kept(queries) == (0, 2)
        found = filter_queries(
            queries, [0, 0, 0], CORPUS, known=["printer driver does not install"], settings=self.SETTINGS
        )
        assert (found.kept, found.counts) == ((2,), {"known_query": 2})
        assert found.samples == {"known_query": queries[:2]}

    def test_round_trip(self) -> None:
        asked: list[tuple[list[str], int]] = []

        def search(queries: list[str], k: int) -> np.ndarray:
            asked.append((list(queries), k))
            return np.array([[3, 0], [1, 2]], np.int32)

        assert self.kept(["printer stuck", "payment fails", "one"], search=search) == (0,)
        assert asked == [(["printer stuck", "payment fails"], 2)]


def test_memories_without_queries_come_first_and_clusters_take_turns() -> None:
    rng = np.random.default_rng(0)
    topics = np.repeat(np.eye(2, 8, dtype=np.float32), (90, 10), axis=0)
    vectors = topics + rng.normal(0, 0.01, topics.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = np.zeros(100, bool)
    asked[:50] = True
    rows = select_memories(asked, 60, vectors=vectors)
    assert len(set(rows.tolist())) == 60
    assert not asked[rows[:50]].any()
    assert asked[rows[50:]].all()
    # The small topic is not crowded out.
    assert (rows[:25] >= 90).sum() >= 4
    assert (select_memories(asked, 60, vectors=vectors) == rows).all()


class TestOfflineGenerator:
    def test_title_key_words_and_first_sentence(self) -> None:
        queries = OfflineGenerator(CORPUS).queries(CORPUS[3], {"title": "Backup does not start"}, count=3)
        assert len(queries) == 3
        plain = {re.sub(r"\W", "", "".join(sorted(query.lower()))) for query in queries}
        assert "".join(sorted("backupdoesnotstart")) in plain

    def test_same_seed_same_queries(self) -> None:
        one, two = (OfflineGenerator(CORPUS, seed=seed) for seed in (1, 2))
        assert one.queries(CORPUS[0], {}, count=6) == OfflineGenerator(CORPUS, seed=1).queries(CORPUS[0], {}, count=6)
        assert one.queries(CORPUS[0], {}, count=6) != two.queries(CORPUS[0], {}, count=6)

    @pytest.mark.parametrize("text", ["", "...", "\n\n", "x", "<b></b>"])
    def test_texts_with_few_words(self, text: str) -> None:
        assert all(query.strip() for query in OfflineGenerator([text]).queries(text, {"title": 3}, count=4))


class TestPrompt:
    def test_fields_are_filled_once(self) -> None:
        text = PromptTemplate("{count} for {memory}{neighbours}").fill("{count} braces", count=2, neighbours=["n\n1"])
        assert text == "2 for {count} braces\nMemories that the queries must NOT fit:\n- n 1\n"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("write {count}", "does not have the field {memory}"),
            ("{memory}", "{count}"),
            ("{memory}{count}{query}", "unknown field {query}"),
        ],
    )
    def test_wrong_fields_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(AceFinetuneError, match=re.escape(message)):
            PromptTemplate(text)

    def test_completion_ends_before_the_next_example(self) -> None:
        template = PromptTemplate.load(Path("completion"))
        assert template.fill("Oil the hinge.", count=1).endswith("Article: Oil the hinge.\nQuestion of a reader:")
        assert template.answer_of("Why does it squeak?\n\nArticle: An oil") == "Why does it squeak?"
        assert PromptTemplate().answer_of("[]\n\nDone") == "[]\n\nDone"

    def test_long_memory_is_shortened(self) -> None:
        assert len(PromptTemplate().fill("x" * 100_000, count=1)) < 8000


class TestSynthesizer:
    def test_prompts_hold_no_text_of_held_out_queries(self, tmp_path) -> None:
        data = dataset(40)
        split = split_dataset(data)
        llm = ScriptedLLM(lambda prompt: '["when is it due", "who is to blame here"]')
        made = Synthesizer(
            data, split=split, llm=llm, settings=SynthesisSettings(num_queries=8, round_trip=None)
        ).generate(tmp_path / "log.jsonl")
        text = "\n".join(llm.prompts)
        assert len(llm.prompts) == 8
        assert made.generated == 8
        assert not any(data.queries[query].text in text for query in (*split.dev, *split.test))
        assert sum(data.queries[query].text in text for query in split.train) >= 5
        # The same query for each memory: the first is kept.
        assert (len(made.dataset.queries), made.left_out) == (1, {"repeated": 7})

    def test_plan_asks_memories_without_known_queries_first(self) -> None:
        data = dataset(40)
        settings = SynthesisSettings(num_queries=4, examples=0, neighbours=0)
        llm = ScriptedLLM(lambda prompt: "not called")
        plan = Synthesizer(data, split=split_dataset(data), llm=llm, settings=settings).plan()
        assert set(plan.memory_ids) == {"m0", "m1", "m2", "m3"}
        assert plan.input_tokens > 100
        assert plan.output_tokens == 80
        assert llm.prompts == []

    def test_answers_of_every_kind(self, tmp_path) -> None:
        answers = {"print": "I'm sorry.", "Rotate": "", "payment": "y" * 30_000, "stale": "```\nbackup hangs\n```"}

        def answer(prompt: str) -> str:
            memory = prompt.split("<memory>")[1]
            return next(text for word, text in answers.items() if word in memory)

        settings = SynthesisSettings(num_queries=4, round_trip=None, neighbours=0)
        made = Synthesizer(dataset(), llm=ScriptedLLM(answer), settings=settings).generate(tmp_path / "log.jsonl")
        assert made.unusable == {"refusal": 1, "empty": 1, "too_long": 1}
        assert [query.text for query in made.dataset.queries.values()] == ["backup hangs"]
        assert list(made.dataset.judgements.values()) == [{"m3": 1.0}]
        assert next(iter(made.dataset.queries.values())).metadata == {"synthetic": "scripted"}

    def test_completions_of_a_small_model(self, tmp_path) -> None:
        answers = {
            "print": " How do I get my printer back?\n\nArticle: Printers\nQuestion of a reader: what prints?",
            "Rotate": f" {CORPUS[1]}",
            "payment": " what what what what is is is is",
            "stale": "\n\nArticle: none",
        }

        def answer(prompt: str) -> str:
            memory = prompt.split("Article: ")[-1]
            return next(text for word, text in answers.items() if word in memory)

        made = Synthesizer(
            dataset(),
            llm=ScriptedLLM(answer),
            settings=SynthesisSettings(num_queries=8, round_trip=None),
            template=PromptTemplate.completion(),
        ).generate(tmp_path / "log.jsonl")
        assert [query.text for query in made.dataset.queries.values()] == ["How do I get my printer back?"]
        assert made.left_out == {"copied": 1, "repetitive": 1}
        assert sum(made.unusable.values()) + made.generated == 4

    def test_round_trip_drops_queries_of_other_memories(self, tmp_path) -> None:
        llm = ScriptedLLM(lambda prompt: "rotate credentials database")
        settings = SynthesisSettings(num_queries=4, round_trip=1)
        made = Synthesizer(dataset(), llm=llm, settings=settings).generate(tmp_path / "log.jsonl")
        assert made.left_out["repeated"] == 3
        assert made.left_out.get("round_trip", 0) + len(made.dataset.queries) == 1

    def test_offline(self) -> None:
        made = Synthesizer(dataset(), settings=SynthesisSettings(num_queries=12)).generate()
        assert made.calls is None
        assert {next(iter(judged)) for judged in made.dataset.judgements.values()} == {"m0", "m1", "m2", "m3"}
        assert all(query.metadata == {"synthetic": "offline"} for query in made.dataset.queries.values())

    def test_no_memories(self) -> None:
        with pytest.raises(DatasetError, match="no memories"):
            Synthesizer(RetrievalDataset("empty", {}, {}, {}))


@pytest.mark.parametrize(
    "values",
    [{"num_queries": 0}, {"per_memory": 0}, {"max_words": 1}, {"max_copied": 1.5}, {"near_duplicate": 0},
     {"round_trip": 0}, {"neighbours": -1}],
)  # fmt: skip
def test_invalid_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(AceFinetuneError):
        SynthesisSettings(**values)  # type: ignore[arg-type]
