from __future__ import annotations

import pytest

from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import RetrievalDataset


@pytest.fixture(scope="session")
def training_data(small_dataset: RetrievalDataset) -> TrainingData:
    """40 train examples over 8 memories and 20 dev examples over 4 others; negatives are neighbouring memories."""
    memories = list(small_dataset.memories)
    train = memories[:8]
    examples = []
    for query_id, query in small_dataset.queries.items():
        (memory,) = small_dataset.judgements[query_id]
        index = memories.index(memory)
        negatives = [train[(index + step) % 8] for step in (1, 2, 3)] if index < 8 else train[:2]
        examples.append(
            TrainingExample(
                query_id=query_id,
                query=query.text,
                positive_ids=(memory,),
                negatives=tuple(HardNegative(i, "dense", 0.5, rank) for rank, i in enumerate(negatives, start=1)),
                split="train" if index < 8 else "dev",
            )
        )
    return TrainingData(
        examples=tuple(examples),
        memories={i: memory.text for i, memory in small_dataset.memories.items()},
        metadata={"source": "small_suite.json"},
        split={"counts": {part: {"queries": 20, "answers": 4} for part in ("train", "dev", "test")}},
    )
