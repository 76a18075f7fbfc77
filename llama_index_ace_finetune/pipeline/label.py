"""Let a person judge synthetic queries, which become queries to select and test on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llama_index_ace_finetune.datasets.types import SYNTHETIC, RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import Memories, read_dataset
from llama_index_ace_finetune.synthesis.judged_queries import JudgedQueries, Judgement, SyntheticQuery
from llama_index_ace_finetune.utils.new_folder import require_writable


@dataclass
class Labelling:
    """A session of judging.

    Attributes:
        queries: to be judged, in order.
        judged: the file of judgements.
        count: number of judgements to reach, those of earlier sessions included.
        skipped: ids that were skipped in this session; they are asked again in the next.
    """

    queries: tuple[SyntheticQuery, ...]
    judged: JudgedQueries
    count: int
    skipped: set[str] = field(default_factory=set)

    @property
    def done(self) -> int:
        """Number of judgements so far."""
        return len(self.judged.rows)

    def next(self) -> SyntheticQuery | None:
        """Return the next query; None if enough are judged, or none is left."""
        if self.done >= self.count:
            return None
        gone = self.judged.judged | self.skipped
        return next((query for query in self.queries if query.id not in gone), None)

    def judge(self, query_id: str, judgement: Judgement, *, text: str = "") -> None:
        """Store a judgement of a query; one that is judged already is left as it is.

        An edited text that is empty is skipped, and one that is unchanged is kept.
        """
        query = next((query for query in self.queries if query.id == query_id), None)
        if query is None or query_id in self.judged.judged:
            return
        text = " ".join(text.split())
        if judgement == "edit" and not text:
            self.skipped.add(query_id)
            return
        if judgement == "edit" and text == query.text:
            judgement = "keep"
        self.judged.add(query, judgement, text=text)

    def counts(self) -> dict[str, int]:
        """Return the number of judgements by kind, of all sessions, and of queries that were skipped in this one."""
        found = Counter(row["judgement"] for row in self.judged.rows)
        return {**{kind: found[kind] for kind in ("keep", "wrong", "edit")}, "skip": len(self.skipped)}


@contextmanager
def label(
    source: str | Path, out: str | Path, *, memories: Memories | None = None, count: int = 50, seed: int = 0
) -> Iterator[Labelling]:
    """Open a session in which a person judges synthetic queries; the same call resumes it.

    Args:
        source: a run with synthetic queries, or data with such queries, as `synthesize` writes them.
        out: JSON Lines file of judged queries; judgements are appended.
        memories: texts of the memories, if the data lack them.
        count: number of judgements to reach.
        seed: of the order; the first queries are about different memories.

    Raises:
        AceFinetuneError: if there are no synthetic queries, or the output cannot be used.
    """
    if count < 1:
        raise AceFinetuneError(f"The number of queries to judge is {count}; it must be at least 1.")
    queries = _ordered(_read(Path(source), memories), seed)
    if not queries:
        raise AceFinetuneError(
            f"{str(source)!r} holds no synthetic queries; give a run of `run --synthesize N`, or a file of "
            "`synthesize`."
        )
    require_writable(Path(out))
    with JudgedQueries.open(Path(out)) as judged:
        yield Labelling(queries, judged, count)


def _read(source: Path, memories: Memories | None) -> RetrievalDataset:
    if not source.is_dir():
        return read_dataset(source, memories)
    run = RunFolder.open(source)
    if not run.synthetic.is_file():
        raise AceFinetuneError(f"The run in {str(source)!r} has no synthetic queries; run it with --synthesize N.")
    return read_dataset(run.synthetic)


def _ordered(dataset: RetrievalDataset, seed: int) -> tuple[SyntheticQuery, ...]:
    """Return the synthetic queries in a random order, a memory's second one after the first of every other."""
    found = []
    for query_id in sorted(dataset.queries):
        query = dataset.queries[query_id]
        positives = sorted(dataset.relevant(query_id))
        if SYNTHETIC in query.metadata and positives:
            memory = dataset.memories[positives[0]]
            found.append(SyntheticQuery(query_id, query.text, memory.id, memory.text))
    random.Random(seed).shuffle(found)
    turns: Counter[str] = Counter()
    order = []
    for one in found:
        turns[one.memory_id] += 1
        order.append((turns[one.memory_id], one))
    return tuple(one for _, one in sorted(order, key=lambda one: one[0]))
