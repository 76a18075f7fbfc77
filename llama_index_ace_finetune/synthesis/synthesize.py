"""Generate synthetic queries for the memories of a dataset, and filter them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.text import id_from_text
from llama_index_ace_finetune.datasets.types import OFFLINE, SYNTHETIC, Memory, Query, RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH, fuse_rankings
from llama_index_ace_finetune.synthesis.answer_log import AnswerLog, prompt_key
from llama_index_ace_finetune.synthesis.call_llm import CallCounts, call_llm
from llama_index_ace_finetune.synthesis.filter_queries import copied_limit, filter_queries
from llama_index_ace_finetune.synthesis.offline_queries import OfflineGenerator
from llama_index_ace_finetune.synthesis.parse_answer import parse_answer
from llama_index_ace_finetune.synthesis.prompt import PromptTemplate
from llama_index_ace_finetune.synthesis.select_memories import select_memories
from llama_index_ace_finetune.synthesis.settings import CallSettings, SynthesisSettings

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from llama_index_ace_finetune.encoders.encoder import Encoder

_CHARS_PER_TOKEN: Final = 4
_TOKENS_PER_QUERY: Final = 20
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class SynthesisPlan:
    """What would be asked: memories as answer ids, queries per memory, the prompts by key, and an estimate of tokens.

    Without a language model there are no prompts.
    """

    memory_ids: tuple[str, ...]
    per_memory: int
    prompts: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    @property
    def input_tokens(self) -> int:
        """Estimated tokens of all prompts, at 4 characters each."""
        return sum(map(len, self.prompts.values())) // _CHARS_PER_TOKEN

    @property
    def output_tokens(self) -> int:
        """Estimated tokens of all answers, at 20 per query."""
        return len(self.prompts) * self.per_memory * _TOKENS_PER_QUERY


@dataclass(frozen=True)
class Synthesis:
    """Synthetic queries as a dataset over the same memories, and what happened on the way.

    Attributes:
        dataset: the memories of the input with the kept queries; a query's metadata names the generator.
        generated: queries before the filters.
        left_out: counts by reason of the filters.
        samples: some queries that were left out, by reason.
        unusable: counts of answers without a query, by reason.
        calls: of the language model; None without one.
        max_copied: the limit of copied words that was used.
    """

    dataset: RetrievalDataset
    generated: int
    left_out: dict[str, int]
    samples: dict[str, list[str]]
    unusable: dict[str, int]
    calls: CallCounts | None
    max_copied: float | None


class Synthesizer:
    """Plans and generates synthetic queries.

    The prompts hold memories and queries of the train part only: no text of a dev or test query.

    Args:
        dataset: the memories, and known queries if there are any.
        split: the parts of the known queries; None if there are none.
        llm: a LlamaIndex language model; None for `OfflineGenerator`.
        encoder: for clusters, neighbours and the round trip; without it BM25 does the latter two.
        settings: what to generate and to keep.
        template: of the prompt.
        leave_out: answer ids of memories to write no queries for, such as those of held-out queries.
        cache: folder for the vectors of the memories.

    Raises:
        DatasetError: without memories, or if all are left out.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        *,
        split: Split | None = None,
        llm: LLM | None = None,
        encoder: Encoder | None = None,
        settings: SynthesisSettings | None = None,
        template: PromptTemplate | None = None,
        leave_out: Collection[str] = (),
        cache: Path | None = None,
    ) -> None:
        if not dataset.answers:
            raise DatasetError(f"{dataset.name}: there are no memories to write queries for.")
        if not set(dataset.answers) - set(leave_out):
            raise DatasetError(
                f"{dataset.name}: all memories are those of held-out queries, so none is left to write queries for; "
                "add memories."
            )
        self.dataset, self.llm, self.settings = dataset, llm, settings or SynthesisSettings()
        self._split = split
        self._template = template or PromptTemplate()
        self._memories: list[Memory] = list(dataset.answers.values())
        self._corpus = [memory.text for memory in self._memories]
        held_out = frozenset(leave_out)
        self._allowed = np.array(
            [row for row, answer in enumerate(dataset.answers) if answer not in held_out], np.int64
        )
        self._row_of = {identifier: row for row, identifier in enumerate(dataset.answers)}
        self._encoder = encoder
        self._vectors = encoder.encode(self._corpus, role="document", cache=cache) if encoder else None
        self._bm25 = BM25Index.build(self._corpus)

    @property
    def generator(self) -> str:
        """Name of what makes the queries."""
        return OFFLINE if self.llm is None else self.llm.metadata.model_name or type(self.llm).__name__

    def plan(self) -> SynthesisPlan:
        """Return which memories to ask for, and the prompts."""
        settings = self.settings
        asked = np.zeros(len(self._memories), bool)
        for query_id in self.dataset.queries:
            asked[[self._row_of[answer] for answer in self.dataset.relevant(query_id)]] = True
        allowed = self._allowed
        wanted = min(math.ceil(settings.num_queries / settings.per_memory), len(allowed))
        per_memory = max(settings.per_memory, math.ceil(settings.num_queries / len(allowed)))
        vectors = None if self._vectors is None else self._vectors[allowed]
        rows = allowed[select_memories(asked[allowed], wanted, vectors=vectors, seed=settings.seed)]
        memory_ids = tuple(self._memories[int(row)].id for row in rows)
        if self.llm is None:
            return SynthesisPlan(memory_ids, per_memory)
        texts = [self._prompt(int(row), per_memory) for row in rows]
        keys = tuple(prompt_key(self.generator, text) for text in texts)
        return SynthesisPlan(memory_ids, per_memory, dict(zip(keys, texts, strict=True)), keys)

    def generate(
        self,
        log: Path | None = None,
        *,
        plan: SynthesisPlan | None = None,
        calls: CallSettings | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Synthesis:
        """Generate and filter the queries.

        Args:
            log: the file of `AnswerLog`; needed with a language model.
            plan: of this object, if it was made already.
            calls: how to call the model.
            progress: called with the number of memories that are finished.

        Raises:
            AceFinetuneError: if the model cannot be reached, or the log cannot be used.
        """
        plan = plan or self.plan()
        if self.llm is None:
            made, unusable, counts = self._offline(plan, progress), Counter[str](), None
        else:
            if log is None:
                raise DatasetError("Give a file for the answers of the language model.")
            with AnswerLog.open(log) as answers:
                counts = _run(call_llm(self.llm, plan.prompts, answers, settings=calls, progress=progress))
                made, unusable = self._parsed(plan, answers.answers)
        rows = [self._row_of[memory_id] for memory_id, _ in made]
        texts = [text for _, text in made]
        limit = self._max_copied()
        filtered = filter_queries(
            texts, rows, self._corpus, known=[query.text for query in self.dataset.queries.values()],
            settings=self.settings, max_copied=limit, drop_copies=self.llm is not None,
            search=self._search,
        )  # fmt: skip
        # Ids that do not collide with those of known queries, whose texts differ.
        kept = {id_from_text(SYNTHETIC, texts[number]): number for number in filtered.kept}
        metadata = {SYNTHETIC: self.generator}
        dataset = replace(
            self.dataset,
            queries={identifier: Query(identifier, texts[number], metadata) for identifier, number in kept.items()},
            judgements={identifier: {made[number][0]: 1.0} for identifier, number in kept.items()},
            own_documents={},
        )
        return Synthesis(
            dataset=dataset,
            generated=len(made),
            left_out={str(reason): count for reason, count in filtered.counts.items()},
            samples={str(reason): texts for reason, texts in filtered.samples.items()},
            unusable=dict(unusable),
            calls=counts,
            max_copied=limit,
        )

    def _offline(self, plan: SynthesisPlan, progress: Callable[[int], None] | None) -> list[tuple[str, str]]:
        generator = OfflineGenerator(self._corpus, seed=self.settings.seed)
        made: list[tuple[str, str]] = []
        for memory_id in plan.memory_ids:
            memory = self.dataset.answers[memory_id]
            queries = generator.queries(memory.text, memory.metadata, count=plan.per_memory)
            made.extend((memory_id, query) for query in queries)
            if progress:
                progress(1)
        return made

    def _parsed(self, plan: SynthesisPlan, answers: Mapping[str, str]) -> tuple[list[tuple[str, str]], Counter[str]]:
        made: list[tuple[str, str]] = []
        unusable: Counter[str] = Counter()
        for memory_id, key in zip(plan.memory_ids, plan.keys, strict=True):
            if key not in answers:
                continue  # counted as a failed call
            answer = parse_answer(self._template.answer_of(answers[key]), limit=plan.per_memory)
            if answer.unusable:
                unusable[answer.unusable] += 1
            made.extend((memory_id, query) for query in answer.queries)
        return made, unusable

    def _prompt(self, row: int, count: int) -> str:
        random = Random(f"{self.settings.seed} {self._memories[row].id}")
        train = sorted(self._split.train) if self._split else []
        examples = random.sample(train, min(self.settings.examples, len(train)))
        neighbours = [near for near in self._neighbours(row) if near != row][: self.settings.neighbours]
        return self._template.fill(
            self._corpus[row],
            count=count,
            examples=[self.dataset.queries[query_id].text for query_id in examples],
            neighbours=[self._corpus[near] for near in neighbours],
        )

    def _neighbours(self, row: int) -> list[int]:
        wanted = self.settings.neighbours + 1
        if self._vectors is not None:
            return [int(near) for near in dense_top_k(self._vectors[row : row + 1], self._vectors, wanted)[0][0]]
        return [int(near) for near in self._bm25.search(self._corpus[row], wanted)[0]]

    def _max_copied(self) -> float | None:
        """The given limit, or that of the training queries; the offline generator only copies."""
        if self.settings.max_copied is not None or self.llm is None or self._split is None:
            return self.settings.max_copied
        pairs = [
            (self.dataset.queries[query_id].text, self.dataset.answers[answer].text)
            for query_id in self._split.train
            for answer in self.dataset.relevant(query_id)
        ]
        return copied_limit(pairs)

    def _search(self, queries: Sequence[str], k: int) -> NDArray[np.int32]:
        legs = [self._bm25.search_batch(list(queries), FUSION_DEPTH)[0]]
        if self._encoder is not None and self._vectors is not None:
            vectors = self._encoder.encode(list(queries), role="query")
            legs.append(dense_top_k(vectors, self._vectors, FUSION_DEPTH)[0])
        return fuse_rankings(legs, limit=k)


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine also where an event loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
