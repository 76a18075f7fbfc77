"""TrainingDataGenerator: writes training_data.json from queries with known positives."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit
from llama_index_ace_finetune.datasets.splits.manifest import KNOWN_PARTS
from llama_index_ace_finetune.datasets.splits.split import Split, SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample, modified_at
from llama_index_ace_finetune.datasets.types import DIFFICULTIES, SYNTHETIC, Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Progress
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.report import mining_counts
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.utils.atomic import require_regular
from llama_index_ace_finetune.utils.new_folder import require_writable

_JSON_SCALARS = (str, int, float, bool)


class TrainingDataGenerator:
    """Write training data for the train and dev queries of a test suite; its test queries are held out.

    Args:
        test_suite_path: the suite: a path that `read_dataset` takes, or a dataset.
        output_path: path of `training_data.json`; an existing file is replaced.
        miner: mines the negatives.
        max_examples: at most N examples, sampled at random from those that match the filters.
        memories: further memories, as `read_dataset` takes them; by default those of the Qdrant collection that the
            miner uses, if any.
        columns: column names of a table, as for `read_dataset`.
        split_settings: fractions and seed of the split.
    """

    def __init__(
        self,
        test_suite_path: Data,
        output_path: str | Path,
        miner: HardNegativeMiner,
        max_examples: int | None = None,
        *,
        memories: Memories | None = None,
        columns: str | None = None,
        split_settings: SplitSettings | None = None,
    ) -> None:
        self.test_suite_path = test_suite_path
        self.output_path = Path(output_path)
        self.miner = miner
        self.max_examples = max_examples
        self.memories = memories
        self.columns = columns
        self.split_settings = split_settings or SplitSettings()

    def generate_and_save(
        self,
        negatives_per_example: int = 5,
        min_difficulty: str | None = None,
        skip_categories: Collection[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Mine negatives, write the file, and return the number of examples.

        Args:
            negatives_per_example: hard negatives per query.
            min_difficulty: skip queries marked as easier ("easy" < "medium" < "hard").
            skip_categories: skip queries of these categories.
            progress: called with the number of newly encoded texts.
        """
        require_writable(self.output_path)
        if self.output_path.is_dir():
            raise DatasetError(f"The output {str(self.output_path)!r} is a directory; give the path of a file.")
        require_regular(self.output_path)
        dataset = read_dataset(self.test_suite_path, self.memories, columns=self.columns)
        if self.miner.collection is not None and self.memories is None:
            dataset = _with_collection(dataset, self.miner.collection.memories())
        self.miner.use(dataset)
        earlier = EarlierSplit.of_record(read_base_provenance(self.miner.model))
        split = split_dataset(dataset, settings=self.split_settings, earlier=earlier)
        data = generate_training_data(
            dataset,
            split,
            self.miner,
            num_negatives=negatives_per_example,
            min_difficulty=min_difficulty,
            skip_categories=frozenset(skip_categories or ()),
            max_examples=self.max_examples,
            source=dataset.name if isinstance(self.test_suite_path, RetrievalDataset) else str(self.test_suite_path),
            # The output of an earlier run in the data folder is not part of the data.
            generated_at=modified_at(*self._paths(), without=self.output_path),
            progress=progress,
        )
        data.save(self.output_path)
        return len(data.examples)

    def _paths(self) -> list[str | Path]:
        return [path for path in (self.test_suite_path, self.memories) if isinstance(path, (str, Path))]

    generate_training_data = generate_and_save


def generate_training_data(
    dataset: RetrievalDataset,
    split: Split,
    miner: HardNegativeMiner,
    *,
    num_negatives: int = 5,
    min_difficulty: str | None = None,
    skip_categories: frozenset[str] = frozenset(),
    max_examples: int | None = None,
    source: str = "",
    generated_at: str | None = None,
    progress: Progress | None = None,
) -> TrainingData:
    """Return training data for the train and dev queries of `split`.

    Positives of dev and test queries never become negatives, so evaluation data is not trained on. `source` is the
    file or folder of the dataset. `generated_at` is by default its modification time (see `modified_at`), null if it
    does not exist. `miner.report` holds the full mining report, of which the file gets the counts.

    Raises:
        AceFinetuneError: if the difficulty is unknown, or `max_examples` is below 1.
        DatasetError: if no query matches the filters.
    """
    selected = choose_queries(
        dataset, split, min_difficulty=min_difficulty, skip_categories=skip_categories, max_examples=max_examples
    )
    order = [query_id for query_id in dataset.queries if query_id in selected]
    held_out = frozenset(split.answers["dev"]) | frozenset(split.answers["test"])
    mined = miner.mine(dataset, order, count=num_negatives, excluded=held_out, progress=progress)
    examples = tuple(_example(dataset, query_id, selected[query_id], mined[query_id]) for query_id in order)
    return TrainingData(
        examples=examples,
        memories={identifier: memory.text for identifier, memory in dataset.answers.items()},
        memory_metadata={
            identifier: {name: value for name, value in memory.metadata.items() if _is_json_value(value)}
            for identifier, memory in dataset.answers.items()
            if memory.metadata
        },
        metadata={
            "source": source or dataset.name,
            "generated_at": generated_at or modified_at(source),
            "format": dataset.ledger.format,
            "ledger": dict(dataset.ledger.counts),
            "mining": {"model": miner.model, **mining_counts(miner.report)},
        },
        split=split.manifest(),
    )


def generate_test_examples(
    dataset: RetrievalDataset,
    split: Split,
    miner: HardNegativeMiner,
    *,
    num_negatives: int = 5,
    min_difficulty: str | None = None,
    skip_categories: frozenset[str] = frozenset(),
) -> tuple[TrainingExample, ...]:
    """Return examples of the queries that match the filters and are in neither train nor dev, all as part "test".

    They are for a refit on all queries only: nothing can be measured on them after it.
    """
    held_out = {i for part in ("test", *KNOWN_PARTS) for i in split.part(part)}
    order = [
        i for i, query in dataset.queries.items() if i in held_out and _matches(query, min_difficulty, skip_categories)
    ]
    mined = miner.mine(dataset, order, count=num_negatives) if order else {}
    return tuple(_example(dataset, query_id, "test", mined[query_id]) for query_id in order)


def _example(
    dataset: RetrievalDataset, query_id: str, part: str, negatives: tuple[HardNegative, ...]
) -> TrainingExample:
    return TrainingExample(
        query_id=query_id,
        query=dataset.queries[query_id].text,
        positive_ids=_positives(dataset, query_id),
        negatives=negatives,
        split=part,
        metadata=_metadata(dataset, query_id),
        own_id=dataset.own_answer(query_id),
    )


def choose_queries(
    dataset: RetrievalDataset,
    split: Split,
    *,
    min_difficulty: str | None = None,
    skip_categories: frozenset[str] = frozenset(),
    max_examples: int | None = None,
) -> dict[str, str]:
    """Return the split part ("train" or "dev") of each query that matches the filters of `generate_training_data`.

    Raises:
        AceFinetuneError: if the difficulty is unknown, or `max_examples` is below 1.
        DatasetError: if no training query matches the filters.
    """
    if min_difficulty is not None and min_difficulty not in DIFFICULTIES:
        raise AceFinetuneError(f"The minimum difficulty is {min_difficulty!r}; it must be {', '.join(DIFFICULTIES)}.")
    if max_examples is not None and max_examples < 1:
        raise AceFinetuneError(f"The maximum number of examples is {max_examples}; it must be at least 1.")
    selected = {
        query_id: part
        for part in ("train", "dev")
        for query_id in split.part(part)
        if _matches(dataset.queries[query_id], min_difficulty, skip_categories)
    }
    if max_examples is not None and len(selected) > max_examples:
        selected = _sampled(selected, max_examples, seed=split.settings.seed)
    if not any(part == "train" for part in selected.values()):
        raise DatasetError(
            f"{dataset.name}: no training query matches the filters (minimum difficulty {min_difficulty or 'none'}, "
            f"skipped categories: {', '.join(sorted(skip_categories)) or 'none'}); loosen them."
        )
    return selected


def _sampled(parts: Mapping[str, str], count: int, *, seed: int) -> dict[str, str]:
    """Sample `count` queries, keeping the ratio of train to dev; at least one dev query if there is room."""
    generator = random.Random(seed)
    by_part = {name: sorted(i for i, part in parts.items() if part == name) for name in ("train", "dev")}
    dev = round(count * len(by_part["dev"]) / len(parts))
    if by_part["dev"] and count > 1:
        dev = max(dev, 1)
    sizes = {"dev": dev, "train": count - dev}
    return {
        query_id: part
        for part, members in by_part.items()
        for query_id in generator.sample(members, min(sizes[part], len(members)))
    }


def _matches(query: Query, min_difficulty: str | None, skip_categories: frozenset[str]) -> bool:
    difficulty = query.metadata.get("difficulty")
    rank = DIFFICULTIES.index(difficulty) if difficulty in DIFFICULTIES else 0
    min_rank = DIFFICULTIES.index(min_difficulty) if min_difficulty in DIFFICULTIES else 0
    categories = labels_of(query.metadata.get("query_category", query.metadata.get("category")))
    return rank >= min_rank and skip_categories.isdisjoint(categories)


def _positives(dataset: RetrievalDataset, query_id: str) -> tuple[str, ...]:
    """Positives, those labelled for this query first."""
    labelled = [dataset.answer_ids[memory] for memory, grade in dataset.judgements[query_id].items() if grade > 0]
    return tuple(dict.fromkeys([*labelled, *sorted(dataset.relevant(query_id))]))


def _metadata(dataset: RetrievalDataset, query_id: str) -> Mapping[str, Any]:
    """The four metadata fields of the original's format; ids keep the type they have in the source.

    A synthetic query also names what made it.
    """
    query = dataset.queries[query_id]
    memory_id = next((memory for memory, grade in dataset.judgements[query_id].items() if grade > 0))
    memory = dataset.memories[memory_id]
    found = {
        "memory_id": memory.metadata.get("source_id", memory_id),
        "category": memory.metadata.get("category", query.metadata.get("category")),
        "difficulty": query.metadata.get("difficulty"),
        "query_category": query.metadata.get("query_category", query.metadata.get("category")),
    }
    if SYNTHETIC in query.metadata:
        found[SYNTHETIC] = query.metadata[SYNTHETIC]
    return {name: value if _is_json_value(value) else None for name, value in found.items()}


def _is_json_value(value: object) -> bool:
    """Whether JSON can hold a value; JSON has no NaN, which tables use for empty cells."""
    if isinstance(value, list):
        return all(one is None or _is_json_value(one) for one in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and (one is None or _is_json_value(one)) for name, one in value.items())
    return isinstance(value, _JSON_SCALARS) and not (isinstance(value, float) and not math.isfinite(value))


def _with_collection(dataset: RetrievalDataset, memories: list[Memory]) -> RetrievalDataset:
    """Add a collection's memories; for an id that the dataset has too, the dataset's text is used."""
    return replace(dataset, memories={**{memory.id: memory for memory in memories}, **dataset.memories})
