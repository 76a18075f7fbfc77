"""Fine-tune the embedding model behind a LlamaIndex retriever, prove it on held-out data, and swap it in.

Importing this package imports neither torch nor transformers nor LlamaIndex; each name is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_ace_finetune.datasets.read_dataset import read_dataset
    from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
    from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
    from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
    from llama_index_ace_finetune.errors import AceFinetuneError
    from llama_index_ace_finetune.evaluation.evaluate_retriever import aevaluate_retriever, evaluate_retriever
    from llama_index_ace_finetune.finetuned_retrieval import FineTunedRetrieval
    from llama_index_ace_finetune.mining.miner import HardNegativeMiner
    from llama_index_ace_finetune.mining.report import save_mining_report
    from llama_index_ace_finetune.mining.settings import MiningSettings
    from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
    from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
    from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
    from llama_index_ace_finetune.retrievers.retriever_options import RetrieverOptions, SearchOptions
    from llama_index_ace_finetune.stores.memory_store import MemoryStore
    from llama_index_ace_finetune.training.config import TrainingConfig
    from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner

__all__ = [
    "AceFinetuneError",
    "EmbeddingFineTuner",
    "FineTunedEmbedding",
    "FineTunedHybridRetriever",
    "FineTunedRetrieval",
    "HardNegativeMiner",
    "Memory",
    "MemoryStore",
    "MiningSettings",
    "Query",
    "RetrievalDataset",
    "RetrievedMemory",
    "RetrieverOptions",
    "SearchOptions",
    "SplitSettings",
    "TrainingConfig",
    "TrainingDataGenerator",
    "__version__",
    "aevaluate_retriever",
    "evaluate_retriever",
    "read_dataset",
    "save_mining_report",
    "split_dataset",
]

_HOMES = {
    "AceFinetuneError": "errors",
    "EmbeddingFineTuner": "training.fine_tuner",
    "FineTunedEmbedding": "embeddings.finetuned_embedding",
    "FineTunedHybridRetriever": "retrievers.hybrid_retriever",
    "FineTunedRetrieval": "finetuned_retrieval",
    "HardNegativeMiner": "mining.miner",
    "Memory": "datasets.types",
    "MemoryStore": "stores.memory_store",
    "MiningSettings": "mining.settings",
    "Query": "datasets.types",
    "RetrievalDataset": "datasets.types",
    "RetrievedMemory": "retrievers.retrieved_memory",
    "RetrieverOptions": "retrievers.retriever_options",
    "SearchOptions": "retrievers.retriever_options",
    "SplitSettings": "datasets.splits.split",
    "TrainingConfig": "training.config",
    "TrainingDataGenerator": "mining.training_data_generator",
    "aevaluate_retriever": "evaluation.evaluate_retriever",
    "evaluate_retriever": "evaluation.evaluate_retriever",
    "read_dataset": "datasets.read_dataset",
    "save_mining_report": "mining.report",
    "split_dataset": "datasets.splits.split",
}

try:
    __version__ = version("llama-index-ace-finetune")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
