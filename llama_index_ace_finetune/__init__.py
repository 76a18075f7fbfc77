"""Fine-tune the embedding model behind a LlamaIndex retriever, prove it on held-out data, and swap it in.

Importing this package imports neither torch nor transformers nor LlamaIndex; each name is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_ace_finetune.datasets.splits.audit import Audit
    from llama_index_ace_finetune.datasets.splits.manifest import Split
    from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
    from llama_index_ace_finetune.datasets.splits.unseen_queries import UnseenQueries, unseen_queries
    from llama_index_ace_finetune.datasets.training_data import TrainingData
    from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
    from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
    from llama_index_ace_finetune.encoders.encoder import Encoder
    from llama_index_ace_finetune.encoders.exports.record import ExportRecord
    from llama_index_ace_finetune.encoders.settings import EncoderSettings
    from llama_index_ace_finetune.errors import AceFinetuneError
    from llama_index_ace_finetune.evaluation.decision.verdict import Verdict, reach_verdict
    from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
    from llama_index_ace_finetune.evaluation.evaluate_retriever import aevaluate_retriever, evaluate_retriever
    from llama_index_ace_finetune.evaluation.metrics.measures import MAP, MRR, NDCG, Recall, Success, parse_measure
    from llama_index_ace_finetune.evaluation.result import Evaluation
    from llama_index_ace_finetune.mining.miner import HardNegativeMiner
    from llama_index_ace_finetune.mining.report import save_mining_report
    from llama_index_ace_finetune.mining.settings import MiningSettings
    from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator, generate_training_data
    from llama_index_ace_finetune.pipeline.audit import audit
    from llama_index_ace_finetune.pipeline.compare import RunComparison, compare
    from llama_index_ace_finetune.pipeline.compare_live import compare_live
    from llama_index_ace_finetune.pipeline.config_file import write_config
    from llama_index_ace_finetune.pipeline.dashboard import Dashboard, dashboard
    from llama_index_ace_finetune.pipeline.demo import demo_suite
    from llama_index_ace_finetune.pipeline.doctor import check_environment
    from llama_index_ace_finetune.pipeline.embedding_evaluator import EmbeddingEvaluator
    from llama_index_ace_finetune.pipeline.encode import encode
    from llama_index_ace_finetune.pipeline.evaluate import EvaluationResult, evaluate
    from llama_index_ace_finetune.pipeline.events import PipelineEvents
    from llama_index_ace_finetune.pipeline.export import export
    from llama_index_ace_finetune.pipeline.generate import GenerationResult, generate
    from llama_index_ace_finetune.pipeline.harvest import HarvestResult, harvest
    from llama_index_ace_finetune.pipeline.index import IndexResult, index
    from llama_index_ace_finetune.pipeline.index_on_server import ServerIndexResult, index_on_server
    from llama_index_ace_finetune.pipeline.inspect import Inspection, inspect
    from llama_index_ace_finetune.pipeline.leftovers import remove_leftovers
    from llama_index_ace_finetune.pipeline.plan import RunPlan, plan
    from llama_index_ace_finetune.pipeline.report import RunReport, report
    from llama_index_ace_finetune.pipeline.run import RunResult, run
    from llama_index_ace_finetune.pipeline.settings import RunSettings
    from llama_index_ace_finetune.pipeline.synthesize import SynthesisResult, synthesize
    from llama_index_ace_finetune.pipeline.train import TrainingResult, train
    from llama_index_ace_finetune.pipeline.tune import TuningResult, tune
    from llama_index_ace_finetune.pipeline.vector_formats import VectorComparison, compare_vector_formats
    from llama_index_ace_finetune.pipeline.watch import Watch, watch
    from llama_index_ace_finetune.production.export_log import export_log
    from llama_index_ace_finetune.production.import_feedback import import_feedback
    from llama_index_ace_finetune.production.interleaved_retriever import InterleavedRetriever
    from llama_index_ace_finetune.production.judgements import HarvestSettings
    from llama_index_ace_finetune.production.live_comparison import LiveComparison
    from llama_index_ace_finetune.production.log_settings import LogSettings
    from llama_index_ace_finetune.production.mask_personal_data import mask_personal_data
    from llama_index_ace_finetune.production.query_log import QueryLog
    from llama_index_ace_finetune.production.records import FeedbackRecord, LoggedHit, RetrievalRecord
    from llama_index_ace_finetune.production.shadow_retriever import ShadowRetriever
    from llama_index_ace_finetune.production.tracing import trace_searches
    from llama_index_ace_finetune.production.user_split import UserSplit
    from llama_index_ace_finetune.retrievers.finetuned_retrieval import FineTunedRetrieval
    from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
    from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
    from llama_index_ace_finetune.retrievers.retriever_options import RetrieverOptions, SearchOptions
    from llama_index_ace_finetune.retrievers.search_event import SearchEvent
    from llama_index_ace_finetune.run_folder import RunFolder
    from llama_index_ace_finetune.scale.encode_memories import EncodedMemories
    from llama_index_ace_finetune.scale.engine import EngineSettings
    from llama_index_ace_finetune.scale.shard_folder import ShardFolder
    from llama_index_ace_finetune.stores.build_index import build_index, memory_nodes
    from llama_index_ace_finetune.stores.memory_store import MemoryStore
    from llama_index_ace_finetune.stores.qdrant.collection_settings import CollectionSettings
    from llama_index_ace_finetune.stores.qdrant.server_settings import ServerSettings
    from llama_index_ace_finetune.stores.read_dataset import read_dataset
    from llama_index_ace_finetune.stores.upsert_nodes import refresh_documents, upsert_nodes
    from llama_index_ace_finetune.stores.versions import build_version, mirror_writes, publish, rollback
    from llama_index_ace_finetune.synthesis.settings import CallSettings, SynthesisSettings
    from llama_index_ace_finetune.training.config import TrainingConfig
    from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
    from llama_index_ace_finetune.tuning.search_space import SearchSpace
    from llama_index_ace_finetune.utils.memory import keep_freed_memory

__all__ = [
    "MAP",
    "MRR",
    "NDCG",
    "AceFinetuneError",
    "Audit",
    "CallSettings",
    "CollectionSettings",
    "Dashboard",
    "EmbeddingEvaluator",
    "EmbeddingFineTuner",
    "EncodedMemories",
    "Encoder",
    "EncoderSettings",
    "EngineSettings",
    "Evaluation",
    "EvaluationResult",
    "ExportRecord",
    "FeedbackRecord",
    "FineTunedEmbedding",
    "FineTunedHybridRetriever",
    "FineTunedRetrieval",
    "GenerationResult",
    "HardNegativeMiner",
    "HarvestResult",
    "HarvestSettings",
    "IndexResult",
    "Inspection",
    "InterleavedRetriever",
    "LiveComparison",
    "LogSettings",
    "LoggedHit",
    "Memory",
    "MemoryStore",
    "MiningSettings",
    "PipelineEvents",
    "Query",
    "QueryLog",
    "Recall",
    "RetrievalDataset",
    "RetrievalRecord",
    "RetrievedMemory",
    "RetrieverOptions",
    "RunComparison",
    "RunFolder",
    "RunPlan",
    "RunReport",
    "RunResult",
    "RunSettings",
    "SearchEvent",
    "SearchOptions",
    "SearchSpace",
    "ServerIndexResult",
    "ServerSettings",
    "ShadowRetriever",
    "ShardFolder",
    "Split",
    "SplitSettings",
    "Success",
    "SynthesisResult",
    "SynthesisSettings",
    "TrainingConfig",
    "TrainingData",
    "TrainingDataGenerator",
    "TrainingResult",
    "TuningResult",
    "UnseenQueries",
    "UserSplit",
    "VectorComparison",
    "Verdict",
    "Watch",
    "__version__",
    "aevaluate_retriever",
    "audit",
    "build_index",
    "build_version",
    "check_environment",
    "compare",
    "compare_live",
    "compare_vector_formats",
    "dashboard",
    "demo_suite",
    "encode",
    "evaluate",
    "evaluate_retriever",
    "evaluate_systems",
    "export",
    "export_log",
    "generate",
    "generate_training_data",
    "harvest",
    "import_feedback",
    "index",
    "index_on_server",
    "inspect",
    "keep_freed_memory",
    "mask_personal_data",
    "memory_nodes",
    "mirror_writes",
    "parse_measure",
    "plan",
    "publish",
    "reach_verdict",
    "read_dataset",
    "refresh_documents",
    "remove_leftovers",
    "report",
    "rollback",
    "run",
    "save_mining_report",
    "split_dataset",
    "synthesize",
    "trace_searches",
    "train",
    "tune",
    "unseen_queries",
    "upsert_nodes",
    "watch",
    "write_config",
]

_HOMES = {
    "AceFinetuneError": "errors",
    "Audit": "datasets.splits.audit",
    "CallSettings": "synthesis.settings",
    "CollectionSettings": "stores.qdrant.collection_settings",
    "Dashboard": "pipeline.dashboard",
    "EmbeddingEvaluator": "pipeline.embedding_evaluator",
    "EmbeddingFineTuner": "training.fine_tuner",
    "EncodedMemories": "scale.encode_memories",
    "Encoder": "encoders.encoder",
    "EncoderSettings": "encoders.settings",
    "EngineSettings": "scale.engine",
    "Evaluation": "evaluation.result",
    "EvaluationResult": "pipeline.evaluate",
    "ExportRecord": "encoders.exports.record",
    "FeedbackRecord": "production.records",
    "FineTunedEmbedding": "embeddings.finetuned_embedding",
    "FineTunedHybridRetriever": "retrievers.hybrid_retriever",
    "FineTunedRetrieval": "retrievers.finetuned_retrieval",
    "GenerationResult": "pipeline.generate",
    "HardNegativeMiner": "mining.miner",
    "HarvestResult": "pipeline.harvest",
    "HarvestSettings": "production.judgements",
    "IndexResult": "pipeline.index",
    "Inspection": "pipeline.inspect",
    "InterleavedRetriever": "production.interleaved_retriever",
    "LiveComparison": "production.live_comparison",
    "LogSettings": "production.log_settings",
    "LoggedHit": "production.records",
    "MAP": "evaluation.metrics.measures",
    "MRR": "evaluation.metrics.measures",
    "Memory": "datasets.types",
    "MemoryStore": "stores.memory_store",
    "MiningSettings": "mining.settings",
    "NDCG": "evaluation.metrics.measures",
    "PipelineEvents": "pipeline.events",
    "Query": "datasets.types",
    "QueryLog": "production.query_log",
    "Recall": "evaluation.metrics.measures",
    "RetrievalDataset": "datasets.types",
    "RetrievalRecord": "production.records",
    "RetrievedMemory": "retrievers.retrieved_memory",
    "RetrieverOptions": "retrievers.retriever_options",
    "RunComparison": "pipeline.compare",
    "RunFolder": "run_folder",
    "RunPlan": "pipeline.plan",
    "RunReport": "pipeline.report",
    "RunResult": "pipeline.run",
    "RunSettings": "pipeline.settings",
    "SearchEvent": "retrievers.search_event",
    "SearchOptions": "retrievers.retriever_options",
    "SearchSpace": "tuning.search_space",
    "ServerIndexResult": "pipeline.index_on_server",
    "ServerSettings": "stores.qdrant.server_settings",
    "ShadowRetriever": "production.shadow_retriever",
    "ShardFolder": "scale.shard_folder",
    "Split": "datasets.splits.manifest",
    "SplitSettings": "datasets.splits.split",
    "Success": "evaluation.metrics.measures",
    "SynthesisResult": "pipeline.synthesize",
    "SynthesisSettings": "synthesis.settings",
    "TrainingConfig": "training.config",
    "TrainingData": "datasets.training_data",
    "TrainingDataGenerator": "mining.training_data_generator",
    "TrainingResult": "pipeline.train",
    "TuningResult": "pipeline.tune",
    "UnseenQueries": "datasets.splits.unseen_queries",
    "UserSplit": "production.user_split",
    "VectorComparison": "pipeline.vector_formats",
    "Verdict": "evaluation.decision.verdict",
    "Watch": "pipeline.watch",
    "aevaluate_retriever": "evaluation.evaluate_retriever",
    "audit": "pipeline.audit",
    "build_index": "stores.build_index",
    "build_version": "stores.versions",
    "check_environment": "pipeline.doctor",
    "compare": "pipeline.compare",
    "compare_live": "pipeline.compare_live",
    "compare_vector_formats": "pipeline.vector_formats",
    "dashboard": "pipeline.dashboard",
    "demo_suite": "pipeline.demo",
    "encode": "pipeline.encode",
    "evaluate": "pipeline.evaluate",
    "evaluate_retriever": "evaluation.evaluate_retriever",
    "evaluate_systems": "evaluation.evaluate",
    "export": "pipeline.export",
    "export_log": "production.export_log",
    "generate": "pipeline.generate",
    "generate_training_data": "mining.training_data_generator",
    "harvest": "pipeline.harvest",
    "import_feedback": "production.import_feedback",
    "index": "pipeline.index",
    "index_on_server": "pipeline.index_on_server",
    "inspect": "pipeline.inspect",
    "keep_freed_memory": "utils.memory",
    "mask_personal_data": "production.mask_personal_data",
    "memory_nodes": "stores.build_index",
    "mirror_writes": "stores.versions",
    "parse_measure": "evaluation.metrics.measures",
    "plan": "pipeline.plan",
    "publish": "stores.versions",
    "reach_verdict": "evaluation.decision.verdict",
    "read_dataset": "stores.read_dataset",
    "refresh_documents": "stores.upsert_nodes",
    "remove_leftovers": "pipeline.leftovers",
    "report": "pipeline.report",
    "rollback": "stores.versions",
    "run": "pipeline.run",
    "save_mining_report": "mining.report",
    "split_dataset": "datasets.splits.split",
    "synthesize": "pipeline.synthesize",
    "trace_searches": "production.tracing",
    "train": "pipeline.train",
    "tune": "pipeline.tune",
    "unseen_queries": "datasets.splits.unseen_queries",
    "upsert_nodes": "stores.upsert_nodes",
    "watch": "pipeline.watch",
    "write_config": "pipeline.config_file",
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
