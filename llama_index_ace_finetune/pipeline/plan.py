"""What a run would do, and about how long it would take."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit
from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.pipeline.check_run import check_run, require_models
from llama_index_ace_finetune.pipeline.choose_base import base_candidates, first_usable
from llama_index_ace_finetune.pipeline.describe_data import describe_data, describe_folds
from llama_index_ace_finetune.pipeline.fold_splits import fold_splits
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.speed import cost, measure_speed
from llama_index_ace_finetune.pipeline.stages.register import kept_stages, stage_keys, stages_of
from llama_index_ace_finetune.pipeline.stages.stage import PlanContext
from llama_index_ace_finetune.pipeline.synthetic_queries import join_synthetic, split_known, synthesizer_of
from llama_index_ace_finetune.pipeline.task_sizes import task_sizes
from llama_index_ace_finetune.training.base_encoding import base_encoding
from llama_index_ace_finetune.training.modes.mode import TrainingSizes

_MEASURED_SECONDS = 6.0
_SAMPLE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """A stage of a plan, or a training mode: its name, what it does, and its estimated seconds."""

    stage: str
    does: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run would do.

    Attributes:
        out: run folder.
        base_model: by folder or hub name.
        device: torch device.
        precision: of all vectors.
        memories: their number.
        distinct_memories: the number of their distinct texts.
        queries: number of train, dev and test queries.
        stages: in the order in which they would run.
        seconds: of all stages.
        data: lines that describe the dataset and its split.
    """

    out: str
    base_model: str
    device: str
    precision: str
    memories: int
    distinct_memories: int
    queries: dict[str, int]
    stages: tuple[PlannedStage, ...]
    seconds: float
    data: tuple[str, ...]


def plan(settings: RunSettings) -> RunPlan:
    """Return what `run` would do with these settings, and about how long it would take; nothing is written.

    Raises:
        AceFinetuneError: whatever `run` would reject before its first stage.
    """
    require_models(settings)
    candidates = base_candidates(settings.training.base_model)
    first = first_usable(candidates, settings.training)
    settings = replace(settings, training=replace(settings.training, base_model=first))
    dataset = settings.read()
    kept = kept_stages(settings, stage_keys(settings, dataset))
    earlier = EarlierSplit.of_record(read_base_provenance(settings.training.base_model))
    known = split_known(settings, dataset, earlier)
    if known is not None and not settings.synthesize:
        split = known
    else:
        # As many queries as the run will write, made without a model.
        offline = replace(settings, llm=None, llm_url=None, llm_model=None)
        made = synthesizer_of(offline, dataset, known, None).generate().dataset
        dataset, split = join_synthetic(settings, dataset, known, earlier, made)
    check_run(settings, dataset, split)
    folds = [split, *fold_splits(settings, dataset)] if settings.folds else []
    encoding = base_encoding(settings.training)
    encoder = Encoder.load(settings.training.base_model, settings=encoding)
    stages = plan_stages(settings, dataset, split, encoder, kept=kept)
    return RunPlan(
        out=str(settings.out),
        base_model=settings.training.base_model,
        device=str(encoder.model.device),
        precision=encoder.settings.precision,
        memories=len(dataset.memories),
        distinct_memories=len(dataset.answers),
        queries={part: len(split.part(part)) for part in ("train", "dev", "test")},
        stages=tuple(stages),
        seconds=round(sum(stage.seconds for stage in stages), 1),
        data=(
            *describe_data(dataset, split),
            *describe_folds(folds),
            *(
                [f"{len(candidates.names)} base models are compared on dev first; the times are of {first}"]
                if len(candidates.names) > 1
                else []
            ),
        ),
    )


def plan_stages(
    settings: RunSettings, dataset: RetrievalDataset, split: Split, encoder: Encoder, *, kept: set[str]
) -> list[PlannedStage]:
    """Return name, work and estimated seconds of each stage.

    Embedding and training are measured on a sample for some seconds and scaled to the characters of the data; steps are
    counted as the training plans them, within its budget. Loading, a teacher, a sparse encoder, a retention set, dev
    queries of further tasks, and the bootstrap are not counted.
    """
    documents = [memory.text for memory in dataset.answers.values()]
    queries = {part: [dataset.queries[i].text for i in split.part(part)] for part in ("train", "dev", "test")}
    texts = [*documents, *queries["train"], *queries["dev"]]
    sample = random.Random(0).sample(texts, min(_SAMPLE, len(texts)))
    speed = measure_speed(encoder, sample, memories=len(documents), seconds=_MEASURED_SECONDS)
    train, dev, test = (cost(queries[part], encoder) for part in ("train", "dev", "test"))
    sizes = TrainingSizes(
        train=train,
        dev=dev,
        corpus=cost(documents, encoder),
        train_queries=len(queries["train"]),
        memories=len(documents),
        judged_queries=sum(bool(dataset.judged_negative(i)) for i in split.train),
        tasks=task_sizes(settings.training, dataset, split, encoder),
    )
    context = PlanContext(
        settings=settings.of_a_fold(), dataset=dataset, split=split, sizes=sizes, test=test, speed=speed
    )
    return [
        PlannedStage(
            stage=estimate.name,
            does="nothing: its inputs have not changed" if stage.name in kept else estimate.description,
            seconds=0.0 if stage.name in kept else round(estimate.seconds, 1),
        )
        for stage in stages_of(settings)
        for estimate in stage.estimate(context)
    ]
