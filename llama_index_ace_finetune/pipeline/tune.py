"""Search training settings on dev, and write a configuration for `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.datasets.splits.split import SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.training_data import TrainingData, modified_at
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.training_data_generator import generate_training_data
from llama_index_ace_finetune.pipeline.config_file import config_text
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.model_contents import by_content
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.stages.stage import dataset_content, digest
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.tuning.choose_trial import choose_trial
from llama_index_ace_finetune.tuning.plot_study import plot_study
from llama_index_ace_finetune.tuning.search_space import SearchSpace
from llama_index_ace_finetune.tuning.study import Study, Trial
from llama_index_ace_finetune.utils.atomic import write_json, write_text
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import require_writable

CONFIG = "run.yaml"
REPORT = "trials.json"
PLOT = "trials.png"
_TRAINING_DATA = "training_data.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningResult:
    """What a search found.

    Attributes:
        config: YAML file for `run --config`, with the chosen settings.
        chosen: those settings; the default ones unless others are better by more than one standard error.
        improved: whether they are not the default ones.
        gain: of the best trial over the default in dev MRR@10; too high, as it is the best of many.
        error: standard error of the gain.
        trials: the finished ones.
    """

    config: Path
    chosen: dict[str, Any]
    improved: bool
    gain: float
    error: float
    trials: tuple[Trial, ...]


def tune(
    data: str | Path,
    out: str | Path,
    *,
    memories: str | Path | None = None,
    columns: str | None = None,
    trials: int = 20,
    timeout_minutes: float | None = None,
    config: TrainingConfig | None = None,
    space: SearchSpace | None = None,
    seeds: Sequence[int] = (0,),
    num_negatives: int = 5,
    split: SplitSettings | None = None,
    mining: MiningSettings | None = None,
    events: PipelineEvents | None = None,
) -> TuningResult:
    """Search the settings of mode "full" on the dev queries; the test queries are not read.

    The study is in `out`: the same call resumes it, and the same call in several processes shares it. The result is a
    configuration for `run` over the same split, whose test queries then measure the choice.

    Args:
        data: queries with known answers, in any format that `read_dataset` takes.
        out: folder of the study.
        memories: further memories.
        columns: names of the columns of a table, as `read_dataset` takes them.
        trials: trainings in all, those of an earlier call and of other processes included.
        timeout_minutes: start no further trial after that time.
        config: the default settings; `budget_minutes` limits each trial.
        space: ranges of the searched settings.
        seeds: each trial trains once per seed.
        num_negatives: hard negatives mined per query.
        split: settings of the split.
        mining: settings of the mining.
        events: receives messages.

    Raises:
        AceFinetuneError: for data that cannot be read or split, a folder with another study, or a training that fails.
    """
    folder, events, config = Path(out), events or PipelineEvents(), config or TrainingConfig()
    require_writable(folder / CONFIG)
    settings = RunSettings(
        data=Path(data), out=folder / "run", memories=Path(memories) if memories else None, columns=columns,
        num_negatives=num_negatives, split=split or SplitSettings(seed=config.seed), mining=mining or MiningSettings(),
        training=config,
    )  # fmt: skip
    training_data, inputs = _training_data(settings, folder, events)
    study = Study(
        folder, training_data, config, space=space, seeds=seeds, cache=folder / "vectors",
        inputs=digest([inputs, by_content(config.to_dict()), vars(space or SearchSpace()), list(seeds)]),
    )  # fmt: skip

    def on_end(trial: Trial) -> None:
        score = "failed" if trial.dev_mrr is None else f"dev MRR@10 {trial.dev_mrr:.3f}"
        shown = ", ".join(f"{name} {_short(value)}" for name, value in trial.settings.items())
        events.on_message(f"trial {trial.number}: {score}{' (pruned)' if trial.state == 'pruned' else ''}; {shown}")

    study.run(trials, timeout=None if timeout_minutes is None else 60 * timeout_minutes, on_end=on_end)
    return _finish(study, settings, folder, events)


def _finish(study: Study, settings: RunSettings, folder: Path, events: PipelineEvents) -> TuningResult:
    trials = study.trials
    default = study.default_trial
    chosen, gain, error = study.default, 0.0, 0.0
    if default:
        compared = [default, *(trial for trial in trials if trial.values is not None and trial != default)]
        choice = choose_trial(
            np.stack([trial.values for trial in compared if trial.values is not None]), groups=study.groups
        )
        chosen, gain, error = compared[choice.chosen].settings, choice.gain, choice.error
    else:
        events.on_message("the default settings have not been tried to the end yet, so none are compared with them")
    training = replace(settings.training, **chosen)
    importances = study.importances()
    write_text(folder / CONFIG, config_text(replace(settings, training=training)))
    write_json(
        folder / REPORT,
        {
            "default": study.default,
            "chosen": chosen,
            "gain_of_best": round(gain, 6),
            "standard_error": round(error, 6),
            "importances": {name: round(value, 4) for name, value in importances.items()},
            "trials": [
                {"number": one.number, "state": one.state, "dev_mrr": one.dev_mrr, **one.settings} for one in trials
            ],
        },
    )
    plot_study(trials, importances, folder / PLOT)
    return TuningResult(
        config=folder / CONFIG, chosen=chosen, improved=chosen != study.default, gain=gain, error=error,
        trials=tuple(trials),
    )  # fmt: skip


def _training_data(settings: RunSettings, folder: Path, events: PipelineEvents) -> tuple[TrainingData, str]:
    """Return the mined training data and a digest of what it depends on; mined once for all processes."""
    dataset = read_dataset(settings.data, settings.memories, columns=settings.columns)
    values = settings.to_dict()
    inputs = digest(
        [dataset_content(dataset), values["split"], by_content(values["mining"]), settings.num_negatives,
         by_content({"base_model": settings.training.base_model})]
    )  # fmt: skip
    file, key = folder / _TRAINING_DATA, folder / f"{_TRAINING_DATA}.inputs"
    with locked(folder / ".mining.lock", output=folder, wait=True):
        if not (file.is_file() and key.is_file() and key.read_text("utf-8") == inputs):
            split = split_dataset(dataset, settings=settings.split)
            miner = HardNegativeMiner(
                model=settings.training.base_model, settings=settings.mining, cache=folder / "vectors",
                device=settings.training.device, precision=settings.training.precision,
            )  # fmt: skip
            texts = len(split.train) + len(split.dev) + len(dataset.answers)
            with miner, events.texts_progress("mining", texts) as progress:
                data = generate_training_data(
                    dataset, split, miner, num_negatives=settings.num_negatives, source=settings.data_name,
                    generated_at=modified_at(*settings.paths), progress=progress,
                )  # fmt: skip
            data.save(file)
            write_text(key, inputs)
        return TrainingData.load(file), inputs


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
