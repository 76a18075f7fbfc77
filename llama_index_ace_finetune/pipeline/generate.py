"""Mine hard negatives and write training data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.splits.split import SplitSettings
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.mining.filters import FILTER_LABELS
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.report import REPORT_NAME, save_mining_report
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.scale.engine import EngineSettings
from llama_index_ace_finetune.scale.mine_corpus import mine_corpus
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from llama_index_ace_finetune.stores.qdrant.live_collection import DEFAULT_COLLECTION
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.utils.new_folder import require_writable


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationResult:
    """A file of training data, its number of examples, and the report of the mining (see `save_mining_report`)."""

    path: Path
    examples: int
    mining: Mapping[str, Any]


def generate(
    data: Data,
    out: str | Path,
    *,
    memories: Memories | None = None,
    columns: str | None = None,
    base_model: str = DEFAULT_BASE_MODEL,
    num_negatives: int = 5,
    min_difficulty: str | None = None,
    skip_categories: Collection[str] = (),
    max_examples: int | None = None,
    qdrant_url: str | None = None,
    collection: str = DEFAULT_COLLECTION,
    embedding_url: str | None = None,
    split: SplitSettings | None = None,
    mining: MiningSettings | None = None,
    mining_report: str | Path | None = None,
    device: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    shards: Sequence[str | Path] = (),
    engine: EngineSettings | None = None,
    events: PipelineEvents | None = None,
) -> GenerationResult:
    """Split a dataset, mine hard negatives for its train and dev queries, and write `training_data.json`.

    Args:
        data: queries with known answers: a dataset, or a path of any format that `read_dataset` takes.
        out: file to write; a file that is there is replaced.
        memories: further memories: a path, the address of a Qdrant collection, memories or LlamaIndex nodes.
        columns: names of the columns of a table, as `read_dataset` takes them.
        base_model: embedding model to mine with, by folder or hub name.
        num_negatives: hard negatives per query.
        min_difficulty: leave out easier queries: easy, medium or hard.
        skip_categories: leave out queries of these categories.
        max_examples: at most N examples, a random sample.
        qdrant_url: server with a collection to mine from as well.
        collection: Qdrant collection to mine from.
        embedding_url: OpenAI-compatible endpoint that embeds queries for that collection.
        split: fractions and seed of the split.
        mining: sources of candidates, and filters.
        mining_report: folder for the full report of the mining.
        device: torch device.
        query_prompt: text in front of every query; by default that of the model or its family.
        document_prompt: the same for documents.
        precision: of the vectors; see `EncoderSettings`.
        shards: folders that `encode` wrote with the base model: a corpus to mine from, which is read shard by shard.
            The candidates are those that would be found if `memories` were all of it.
        engine: where to search the shards; in this process by default.
        events: receives progress.

    Raises:
        AceFinetuneError: for data that cannot be read or split, settings out of range, or an output that cannot be
            written.
    """
    resolve_checkpoint(base_model)
    encoding = EncoderSettings(
        device=device, precision=precision, query_prompt=query_prompt, document_prompt=document_prompt
    )
    given = shards or query_prompt is not None or document_prompt is not None
    encoder = Encoder.load(base_model, settings=encoding) if given else None
    statistics = None
    if shards:
        assert encoder is not None
        require_writable(Path(out))
        folders = [ShardFolder.open(folder) for folder in shards]
        encoder = ShardEncoder(encoder, folders)
        dataset = read_dataset(data, memories, columns=columns)
        corpus = mine_corpus(dataset, encoder, folders, settings=mining or MiningSettings(), engine=engine)
        data, memories, columns, statistics = corpus.dataset, None, None, corpus.statistics
    miner = HardNegativeMiner(
        qdrant_url,
        collection,
        embedding_url,
        model=base_model,
        settings=mining,
        device=device,
        precision=precision,
        encoder=encoder,
        statistics=statistics,
    )
    generator = TrainingDataGenerator(
        data, out, miner, max_examples, memories=memories, columns=columns, split_settings=split
    )
    if mining_report is not None:
        require_writable(Path(mining_report) / REPORT_NAME)
    with miner, (events or PipelineEvents()).texts_progress("mining", None) as progress:
        written = generator.generate_and_save(
            negatives_per_example=num_negatives,
            min_difficulty=min_difficulty,
            skip_categories=set(skip_categories),
            progress=progress,
        )
    if mining_report is not None:
        save_mining_report(miner.report, Path(mining_report))
    return GenerationResult(path=generator.output_path, examples=written, mining=miner.report)


def describe_mining(report: Mapping[str, Any]) -> list[str]:
    """Return lines: what a mining run kept, what its filters rejected, and a warning if that is suspicious."""
    filtered = ", ".join(f"{count} {FILTER_LABELS.get(name, name)}" for name, count in report["filtered"].items())
    lines = [
        f"{report['kept']} hard negatives ({report['distinct']} distinct) from {report['candidates']} candidates; "
        f"left out: {filtered or 'none'}"
    ]
    for step in report["relaxed"]:
        margin = "off" if step["relative_margin"] is None else step["relative_margin"]
        lines.append(
            f"relative margin {margin}: {step['negatives']} more for {step['queries']} queries that were short"
        )
    if report["queries_with_fewer"]:
        lines.append(f"{report['queries_with_fewer']} queries have fewer than {report['wanted_per_query']} negatives")
    if report["suspicious"]:
        lines.append("warning: very few distinct negatives; check the embedding model and the collection")
    return lines
