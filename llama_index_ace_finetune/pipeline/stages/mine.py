"""Split the dataset, mine hard negatives, write training data."""

from __future__ import annotations

from collections.abc import Mapping

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.datasets.splits.audit import audit_split, require_clean
from llama_index_ace_finetune.datasets.training_data import modified_at
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.mining.report import save_mining_report
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.pipeline.generate import describe_mining
from llama_index_ace_finetune.pipeline.model_contents import by_content
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.stage import (
    PlanContext,
    Stage,
    StageContext,
    StageEstimate,
    dataset_content,
    digest,
)


def _key(settings: RunSettings, dataset: RetrievalDataset, keys: Mapping[str, str]) -> str:
    values = settings.to_dict()
    values["mining"] = by_content(values["mining"])
    chosen = {name: values[name] for name in ("num_negatives", "min_difficulty", "skip_categories", "split", "mining")}
    if settings.synthesize:
        llm = settings.llm_model if settings.llm is None else settings.llm.metadata.model_name
        chosen |= {"synthesize": settings.synthesize, "llm": [settings.llm_url, llm]}
    base_model = by_content({"base_model": settings.training.base_model})["base_model"]
    return digest([__version__, dataset_content(dataset), chosen, base_model, *_encoding(settings)])


def _encoding(settings: RunSettings) -> tuple[str | None, ...]:
    training = settings.training
    return training.precision, training.query_prompt, training.document_prompt


def _run(context: StageContext) -> None:
    settings, dataset, split = context.settings, context.dataset, context.split
    miner = context.miner
    texts = len(split.train) + len(split.dev) + len(dataset.answers)
    with context.events.texts_progress("mining", texts) as progress:
        data = generate_training_data(
            dataset,
            split,
            miner,
            num_negatives=settings.num_negatives,
            min_difficulty=settings.min_difficulty,
            skip_categories=settings.skip_categories,
            source=settings.data_name,
            generated_at=modified_at(*settings.paths),
            progress=progress,
        )
    for line in describe_mining(miner.report):
        context.events.on_message(line)
    save_mining_report(miner.report, context.folder.mining)
    require_clean(audit_split(dataset, split, data.examples_of("train")))
    split.save(context.folder.split)
    data.save(context.folder.training_data)


def _estimate(context: PlanContext) -> list[StageEstimate]:
    sizes = context.sizes
    seconds = (sizes.train + sizes.dev + sizes.corpus) * context.speed.embed
    queries = len(context.split.train) + len(context.split.dev)
    description = f"{context.settings.num_negatives} negatives for each of {queries} queries"
    if context.settings.synthesize:
        description += f", up to {context.settings.synthesize} of them synthetic"
    return [StageEstimate("mine", description, seconds)]


STAGE = Stage(
    name="mine",
    outputs=lambda run: (run.split, run.training_data, run.mining),
    key=_key,
    run=_run,
    estimate=_estimate,
)
