from __future__ import annotations

import copy

import pytest

from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder


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


@pytest.fixture(scope="session")
def one_layer(minilm: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base model cut to its first layer, for tests that do not depend on the quality of the vectors."""
    model = copy.deepcopy(minilm.model)
    transformer = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:1]
    transformer.config.num_hidden_layers = 1
    folder = tmp_path_factory.mktemp("models") / "one_layer"
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)
