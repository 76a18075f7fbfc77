"""All stages in one: read, split, mine, train, evaluate, index."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit
from llama_index_ace_finetune.datasets.splits.split import Split, SplitSettings
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.environment import describe_environment
from llama_index_ace_finetune.evaluation.report.folds import without_folds
from llama_index_ace_finetune.evaluation.report.report import read_report, write_report
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.pipeline.check_run import check_run, require_models
from llama_index_ace_finetune.pipeline.choose_base import is_choice, with_one_base
from llama_index_ace_finetune.pipeline.config_file import config_text
from llama_index_ace_finetune.pipeline.describe_data import describe_data
from llama_index_ace_finetune.pipeline.dev_queries import dev_of_split
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.fold_splits import fold_splits
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.folds import STAGE as FOLDS
from llama_index_ace_finetune.pipeline.stages.register import RUN, STAGES, kept_stages, stage_keys, stages_of
from llama_index_ace_finetune.pipeline.stages.stage import StageContext
from llama_index_ace_finetune.pipeline.synthetic_queries import add_synthetic, copy_synthetic, split_known
from llama_index_ace_finetune.pipeline.work_folder import tidy_work, work_folder
from llama_index_ace_finetune.run_folder import MANIFEST_VERSION, RunFolder
from llama_index_ace_finetune.stores.read_dataset import Data, Memories
from llama_index_ace_finetune.training.base_encoding import base_encoding
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.model_selection.base_choice import BaseChoice
from llama_index_ace_finetune.training.modes.assist import assist, finish
from llama_index_ace_finetune.training.ranks import ONE, Ranks, join_ranks
from llama_index_ace_finetune.utils.atomic import write_json, write_text
from llama_index_ace_finetune.utils.new_folder import new_folder, tidy
from llama_index_ace_finetune.utils.ownership import added_by_user

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        report: report.json as JSON values.
        folder: the run folder.
        stages: those that ran; none if nothing has changed since the run was made.
        seconds: that it took.
    """

    report: dict[str, Any]
    folder: RunFolder
    stages: tuple[str, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        """The sentence that says what to serve."""
        return str(self.report["verdict"]["sentence"])


def run(
    settings: RunSettings | None = None,
    *,
    data: Data | None = None,
    out: str | Path | None = None,
    memories: Memories | None = None,
    columns: str | None = None,
    synthesize: int = 0,
    llm: LLM | None = None,
    split: SplitSettings | None = None,
    mining: MiningSettings | None = None,
    training: TrainingConfig | None = None,
    folds: int = 0,
    resume: bool = False,
    force: bool = False,
    events: PipelineEvents | None = None,
) -> RunResult:
    """Run every stage whose inputs have changed: read, split, mine, train, evaluate, index.

    The run folder is complete at the end, or not written at all. If no mode improves on dev, the base model is kept:
    that is a result, not an error.

    In a process that torchrun started, all of them call it with the same settings: they divide the batches of modes
    `in_batch` and `full`, the first one does all else, and all return its result.

    Args:
        settings: all settings at once; or give `data` and `out`, and what should not be the default.
        data: queries with known answers: a dataset, or a path of any format that `read_dataset` takes. With
            `synthesize`, memories are enough.
        out: run folder.
        memories: further memories: a path, the address of a Qdrant collection, memories or LlamaIndex nodes.
        columns: names of the columns of a table, as `read_dataset` takes them.
        synthesize: number of synthetic queries to write, see `RunSettings`.
        llm: LlamaIndex language model that writes them; without one they are made of the memories' own words.
        split: fractions and seed of the split.
        mining: sources of candidates, and filters.
        training: settings of the training; its output_dir is not used.
        folds: test every query once, in K folds, see `RunSettings`.
        resume: resume an interrupted run; in a finished run, run only stages whose data or settings have changed.
        force: run all stages again and replace the run.
        events: receives progress.

    Raises:
        OutputExistsError: if the run folder holds another run or other files, and must not be replaced.
        AceFinetuneError: for data that cannot be read or split, or a stage that fails.
    """
    if settings is None:
        if out is None or (data is None and not synthesize):
            raise AceFinetuneError("A run needs data and out; give both, or RunSettings.")
        settings = RunSettings(
            data=data if data is None or isinstance(data, RetrievalDataset) else Path(data),
            out=Path(out),
            memories=memories,
            columns=columns,
            synthesize=synthesize,
            llm=llm,
            split=split or SplitSettings(),
            mining=mining or MiningSettings(),
            training=training or TrainingConfig(),
            folds=folds,
            resume=resume,
            force=force,
        )
    elif any((data, out, memories, columns, synthesize, llm, split, mining, training, folds, resume, force)):
        raise AceFinetuneError(
            "A run takes RunSettings or single settings, not both; put all of them into RunSettings."
        )
    with join_ranks(device=settings.training.device) as ranks:
        facts = json.dumps(settings.to_dict(), sort_keys=True, default=str)
        ranks.agree({"version of this package": __version__, "configuration": text_hash(facts)})
        if not ranks.is_main:
            result: RunResult = assist(ranks, ranks.scatter())
            return result
        result = _run(settings, events or PipelineEvents(), ranks)
        finish(ranks, result)
        return result


def _run(settings: RunSettings, events: PipelineEvents, ranks: Ranks) -> RunResult:
    start = time.perf_counter()
    tidy(settings.out)
    require_models(settings)
    dataset = settings.read()
    bases = None
    if is_choice(settings.training.base_model):
        known = split_known(settings, dataset, None)
        one, bases = with_one_base(settings.training, dev_of_split(dataset, known), events)
        settings = replace(settings, training=one)
    if ranks.size > 1:  # the others wait for it, since it names one base model
        ranks.scatter([settings.training] * ranks.size)
    ran = _run_changed(settings, dataset, start, events, bases=bases, ranks=ranks)
    folder = RunFolder(settings.out)
    return RunResult(
        report=read_report(folder.report),
        folder=folder,
        stages=tuple(stage.name for stage in STAGES if stage.name in ran),
        seconds=time.perf_counter() - start,
    )


def _run_changed(
    settings: RunSettings,
    dataset: RetrievalDataset,
    start: float,
    events: PipelineEvents,
    *,
    bases: BaseChoice | None = None,
    ranks: Ranks = ONE,
) -> set[str]:
    """Run the stages whose inputs have changed; return their names.

    With folds, the first one is made as a run without folds before the others are.
    """
    keys = stage_keys(settings, dataset)
    kept = kept_stages(settings, keys)
    ran = set(keys) - kept
    if not ran:
        tidy_work(settings.out, inputs=keys)
        events.on_message(f"nothing has changed since {settings.out} was made; --force makes it again")
        return ran
    folds = fold_splits(settings, dataset)
    if settings.folds:
        first = replace(settings.of_a_fold(), folds=0)
        if kept.issuperset(FOLDS.after):
            tidy_work(settings.out, inputs=stage_keys(first, dataset))
        else:
            ran |= _run_changed(first, dataset, start, events, ranks=ranks)
            settings = replace(settings, resume=True, force=False)
            kept = kept_stages(settings, keys)
    with work_folder(settings.out, inputs=keys, resume=settings.resume, events=events) as work:
        _run_stages(settings, dataset, keys, kept, work, start, events, bases=bases, folds=folds, ranks=ranks)
    return ran


def _run_stages(
    settings: RunSettings,
    dataset: RetrievalDataset,
    keys: dict[str, str],
    kept: set[str],
    work: Path,
    start: float,
    events: PipelineEvents,
    *,
    bases: BaseChoice | None = None,
    folds: Sequence[Split] = (),
    ranks: Ranks = ONE,
) -> None:
    read = dataset
    earlier = EarlierSplit.of_record(read_base_provenance(settings.training.base_model))
    known = split_known(settings, dataset, earlier)
    base = None
    if known is not None and not settings.synthesize:
        split = known
    else:
        base = Encoder.load(settings.training.base_model, settings=base_encoding(settings.training))
        dataset, split = add_synthetic(
            settings, dataset, known, earlier, base, work=work, reuse="mine" in kept, events=events
        )
    for line in describe_data(dataset, split):
        events.on_message(line)
    check_run(settings, dataset, split)
    base = base or Encoder.load(settings.training.base_model, settings=base_encoding(settings.training))
    with new_folder(settings.out, kind=RUN) as aside:
        folder = RunFolder(aside)
        _copy_kept(settings.out, folder, kept, events)
        if "evaluate" in kept and "folds" not in kept:
            write_report(without_folds(read_report(folder.report)), folder.report)
        if settings.synthesize:
            copy_synthetic(RunFolder(work).synthetic, folder.synthetic)
        context = StageContext(
            settings=settings.of_a_fold(),
            dataset=dataset,
            split=split,
            base=base,
            folder=folder,
            work=work,
            events=events,
            bases=bases,
            folds=folds,
            read=read,
            ranks=ranks,
        )
        for stage in stages_of(settings):
            if stage.name not in kept:
                stage.run(context)
        write_text(folder.config, config_text(settings))
        write_json(folder.manifest, _manifest(settings, keys, folder, time.perf_counter() - start))


def _copy_kept(old: Path, new: RunFolder, kept: set[str], events: PipelineEvents) -> None:
    """Copy the outputs of kept stages, without files that a user added: those are moved along with the folder."""
    added = {old / path for path in added_by_user(old)} if kept else set()
    for stage in sorted((stage for stage in STAGES if stage.name in kept), key=lambda stage: stage.name):
        events.on_message(f"{stage.name}: kept, since its inputs have not changed")
        for source in stage.outputs(RunFolder(old)):
            _copy(source, new.path / source.relative_to(old), without=added)


def _copy(source: Path, target: Path, *, without: set[Path]) -> None:
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=lambda folder, names: [name for name in names if Path(folder, name) in without]
        )
    else:
        shutil.copy2(source, target)


def _manifest(settings: RunSettings, keys: dict[str, str], folder: RunFolder, seconds: float) -> dict[str, Any]:
    report = read_report(folder.report)
    training = report["training"]
    return {
        "format_version": MANIFEST_VERSION,
        "package_version": __version__,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "base_model": settings.training.base_model,
        **settings.to_dict(),
        "seeds": settings.seeds(),
        "precision": report.get("precision"),
        "stages": keys,
        "environment": describe_environment(),
        "training_seconds": (training["metrics"] or {}).get("training_time_seconds"),
        "shipped": (training["selection"] or {}).get("shipped"),
        "refit": (training["metrics"] or {}).get("refit"),
        "serving": report["serving"],
    }
