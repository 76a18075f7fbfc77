"""mine_corpus: the memories of shards that are candidates for hard negatives of a dataset's queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer
from llama_index_ace_finetune.scale.engine import EngineSettings, run_shards
from llama_index_ace_finetune.scale.mine_shard import (
    CountWork,
    Hits,
    MineWork,
    MiningQueries,
    ShardTask,
    merge_hits,
)
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.scale.vector_shard import read_shard_memories


@dataclass(frozen=True)
class MinedCorpus:
    """What `HardNegativeMiner` needs to mine a dataset as if it held all memories of the shards.

    Attributes:
        dataset: the dataset with the candidates of all its queries.
        statistics: of all memories, for BM25; None if BM25 is no source.
    """

    dataset: RetrievalDataset
    statistics: CorpusStatistics | None


def mine_corpus(
    dataset: RetrievalDataset,
    encoder: ShardEncoder,
    folders: Sequence[ShardFolder],
    *,
    settings: MiningSettings,
    engine: EngineSettings | None = None,
) -> MinedCorpus:
    """Add to a dataset those memories of shards that are among the best of a query by cosine or by BM25.

    The filters then see the candidates, ranks and scores that they would see with all memories in the dataset. Ties are
    ordered by the position in the shards, and of equal texts the first one counts. Sampling strategy "random" draws
    others of the accepted candidates, since it depends on row numbers.

    Args:
        dataset: queries with their positives.
        encoder: the model, with its shards.
        folders: those shards.
        settings: of the mining: sources and depth.
        engine: where to search the shards.

    Raises:
        StoreError: if a shard is damaged.
        AceFinetuneError: if Ray cannot be used.
    """
    engine = engine or EngineSettings()
    queries = [query.text for query in dataset.queries.values()]
    tasks = _tasks(folders)
    statistics = None
    if settings.bm25:
        tokenizer = Tokenizer()
        terms = frozenset(term for query in queries for term in tokenizer(query))
        texts = [memory.text for memory in dataset.answers.values()]
        others = [text for text, held in zip(texts, encoder.holds(texts), strict=True) if not held]
        statistics = CorpusStatistics.of(others, terms)
        for counted in run_shards(CountWork(terms), tasks, engine, use_gpus=False):
            statistics += counted
    depth = settings.range_max + 1  # one may be the query's own document
    vectors = encoder.encode_queries(queries)
    work = MineWork(MiningQueries(queries, vectors), depth, settings.dense, statistics)
    best: list[Hits] | None = None
    for found in run_shards(work, tasks, engine, use_gpus=False):
        best = found if best is None else [merge_hits(*pair, depth) for pair in zip(best, found, strict=True)]
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(hits.ravel() for hits, _ in best or ())]))
    memories: dict[str, Memory] = {}
    for memory in _memories(tasks, rows[rows >= 0]):
        memories.setdefault(memory.id, memory)
    return MinedCorpus(replace(dataset, memories={**memories, **dataset.memories}), statistics)


def _tasks(folders: Sequence[ShardFolder]) -> list[ShardTask]:
    """Return a task per shard; only the first memory of each text is kept."""
    digests = [found for folder in folders for found in folder.digests()]
    starts = np.cumsum([0, *map(len, digests)])
    kept = np.zeros(starts[-1], bool)
    kept[np.unique(np.concatenate([np.empty(0, np.uint64), *digests]), return_index=True)[1]] = True
    files = [folder.file(number) for folder in folders for number in range(len(folder))]
    return [
        ShardTask(file, int(first), kept[first:last])
        for file, first, last in zip(files, starts[:-1], starts[1:], strict=True)
    ]


def _memories(tasks: Sequence[ShardTask], rows: NDArray[np.int64]) -> Iterator[Memory]:
    """Yield the memories of ascending rows of the corpus."""
    for task in tasks:
        own = rows[(rows >= task.first) & (rows < task.first + len(task.kept))] - task.first
        if len(own):
            memories = read_shard_memories(task.file)
            yield from (memories[row] for row in own)
