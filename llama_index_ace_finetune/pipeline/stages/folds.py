"""Repeat the stages in the other folds, and reach the verdict over the test queries of all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.evaluation.report.folds import read_fold, with_folds
from llama_index_ace_finetune.evaluation.report.per_query import per_query_path
from llama_index_ace_finetune.evaluation.report.report import read_report, write_report
from llama_index_ace_finetune.pipeline.check_run import check_run
from llama_index_ace_finetune.pipeline.stages import evaluate, mine, train
from llama_index_ace_finetune.pipeline.stages.stage import PlanContext, Stage, StageContext, StageEstimate, digest
from llama_index_ace_finetune.pipeline.synthetic_queries import add_synthetic
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.modes.refit import config_for_selection


def _run(context: StageContext) -> None:
    report = read_report(context.folder.report)
    folds = [read_fold(context.folder.report)]
    for number, split in enumerate(context.folds, 2):
        finished = context.work / "folds" / str(number)
        name = f"fold {number} of {context.settings.folds}"
        if finished.is_dir():
            context.events.on_message(f"{name}: kept, since it was done")
        else:
            context.events.on_message(f"{name}: {len(split.test)} test queries")
            _run_fold(context, split, finished, title=name)
        kept = RunFolder(shutil.copytree(finished, context.folder.folds / str(number)))
        folds.append(read_fold(kept.report))
    pooled = with_folds(report, folds)
    evaluate.write_cards(context.folder, pooled, dataset=context.dataset.name)
    write_report(pooled, context.folder.report)


def _run_fold(context: StageContext, split: Split, finished: Path, *, title: str) -> None:
    """Mine, train and evaluate by the split of a fold; `finished` appears when all is done, without the model."""
    folder = RunFolder(finished.with_name(f"{finished.name}.new"))
    work = finished.with_name(f"{finished.name}.work")
    if folder.path.exists():
        shutil.rmtree(folder.path)  # of an interrupted run; its checkpoints are in the work folder
    folder.path.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    training = context.settings.training
    if training.refit == "all":  # what is measured is the model before such a refit
        training = replace(config_for_selection(training), refit="none")
    settings = replace(context.settings, out=context.folder.path, title=title, training=training)
    dataset = context.read or context.dataset
    if settings.synthesize:
        dataset, split = add_synthetic(
            settings, dataset, split, None, context.base, work=work, reuse=False, events=context.events
        )
        check_run(settings, dataset, split)
    fold = context.of_fold(settings=settings, dataset=dataset, split=split, folder=folder, work=work)
    for stage in (mine.STAGE, train.STAGE, evaluate.STAGE):
        stage.run(fold)
    results = folder.path / "results"
    results.mkdir()
    for file in (folder.split, folder.report, per_query_path(folder.report)):
        file.rename(results / file.name)
    results.rename(finished)
    shutil.rmtree(folder.path)
    shutil.rmtree(work)


def _estimate(context: PlanContext) -> list[StageEstimate]:
    # The base's vectors, which mining needs, are cached by then.
    others = context.settings.folds - 1
    estimates = [*train.STAGE.estimate(context), *evaluate.STAGE.estimate(context)]
    description = f"mine, train and evaluate in {others} more fold{'s' if others > 1 else ''}"
    return [StageEstimate("folds", description, others * sum(one.seconds for one in estimates))]


STAGE = Stage(
    name="folds",
    outputs=lambda run: (run.folds,),
    key=lambda settings, dataset, keys: digest([keys["evaluate"], settings.folds]),
    run=_run,
    estimate=_estimate,
    after=("train", "evaluate"),
    used=lambda settings: settings.folds > 0,
)
