"""Study: an Optuna study of trainings in a folder, which several processes may work on and a later one resumes."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import AceFinetuneError, TrainingError, first_line
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.tuning.search_space import SearchSpace

if TYPE_CHECKING:
    import optuna

STUDY: Final = "study.db"
_NAME: Final = "ace-finetune"
_INPUTS: Final = "inputs"
_VALUES: Final = "dev_mrr_per_query"
# ASHA: after a third of the steps two thirds of the trials are pruned. A resource is a percentage of the steps.
_FIRST_PRUNING, _REDUCTION = 30, 3
# Seconds; the trial of a process that is silent for twice as long has failed.
_HEARTBEAT = 60


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number, its settings, MRR@10 on dev, and whether it was pruned."""

    number: int
    settings: dict[str, Any]
    dev_mrr: float | None
    state: str
    values: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


class Study:
    """Trains with sampled settings and records the MRR@10 of each dev query.

    Settings are sampled by TPE (Bergstra et al., 2011); a trial that is worse than most at the same part of its
    training is pruned by asynchronous successive halving (Li et al., 2020). The first trial has the default settings.

    Args:
        folder: holds `study.db` (SQLite), to resume and to share between processes.
        data: training data with dev queries.
        config: the default settings; mode "full" is trained.
        space: of the settings to search.
        seeds: each trial trains once per seed, and counts by the mean.
        inputs: a digest of everything that trials must have in common.
        cache: folder for vectors of the base model.

    Raises:
        AceFinetuneError: if Optuna is not installed, or the folder holds another study.
        TrainingError: without dev queries.
    """

    def __init__(
        self,
        folder: Path,
        data: TrainingData,
        config: TrainingConfig,
        *,
        space: SearchSpace | None = None,
        seeds: Sequence[int] = (0,),
        inputs: str,
        cache: Path | None = None,
    ) -> None:
        self.folder, self.space = folder, space or SearchSpace()
        self.default = self.space.point(config)
        self._data, self._config, self._seeds, self._cache = data, replace(config, mode="full"), tuple(seeds), cache
        dev = data.examples_of("dev")
        if not dev:
            raise TrainingError("The training data has no dev queries, on which trials are compared; add queries.")
        self.groups = DevSet(index_examples(data, dev)).groups
        self._study = _open(folder / STUDY, seed=config.seed)
        held = self._study.user_attrs.get(_INPUTS)
        if held not in (None, inputs):
            raise AceFinetuneError(
                f"The study in {str(folder)!r} is of other data or settings; give another folder, or delete it."
            )
        if held is None:
            self._study.set_user_attr(_INPUTS, inputs)
        self._enqueue_default()

    def _enqueue_default(self) -> None:
        """Have the default settings tried next, unless a trial with them waits, runs or is complete."""
        from optuna.trial import TrialState

        states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
        trials = self._study.get_trials(deepcopy=False, states=states)
        if not any(trial.system_attrs.get("fixed_params", trial.params) == self.default for trial in trials):
            self._study.enqueue_trial(self.default)

    @property
    def trials(self) -> list[Trial]:
        """The finished trials, the pruned ones included, in the order of their numbers."""
        finished = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return [
            Trial(
                trial.number, dict(trial.params), trial.value, trial.state.name.lower(),
                np.array(trial.user_attrs[_VALUES]) if _VALUES in trial.user_attrs else None,
            )
            for trial in finished
        ]  # fmt: skip

    @property
    def default_trial(self) -> Trial | None:
        """The trial with the default settings; None while it is not finished, in another process for example."""
        return next((one for one in self.trials if one.values is not None and one.settings == self.default), None)

    def importances(self) -> dict[str, float]:
        """Return how much of the spread of dev MRR@10 each setting explains; empty with few trials.

        Source: PED-ANOVA, Watanabe et al., 2023.
        """
        import optuna

        try:
            with warnings.catch_warnings():  # it is marked experimental, and warns of few trials
                warnings.simplefilter("ignore")
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))
        except (RuntimeError, ValueError):  # too few trials, or all of equal value
            return {}

    def run(self, trials: int, *, timeout: float | None = None, on_end: Callable[[Trial], None] | None = None) -> None:
        """Train until the study has `trials` finished ones, of all processes, or `timeout` seconds are over.

        Raises:
            AceFinetuneError: if a training fails for a reason that a user can fix.
        """
        from optuna.study import MaxTrialsCallback
        from optuna.trial import TrialState

        states = (TrialState.COMPLETE, TrialState.PRUNED)
        if sum(trial.state in states for trial in self._study.get_trials(deepcopy=False)) >= trials:
            return

        def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            # Their trial may have failed, or its process may have been killed.
            self._enqueue_default()
            if on_end:
                on_end(Trial(trial.number, dict(trial.params), trial.value, trial.state.name.lower()))

        self._study.optimize(self._train, timeout=timeout, callbacks=[MaxTrialsCallback(trials, states), ended])

    def _train(self, trial: optuna.Trial) -> float:
        config = self.space.sample(trial, self._config)
        values = np.mean([self._dev_values(trial, config, number) for number in range(len(self._seeds))], axis=0)
        trial.set_user_attr(_VALUES, values.round(6).tolist())
        return float(values.mean())

    def _dev_values(self, trial: optuna.Trial, config: TrainingConfig, number: int) -> NDArray[np.float64]:
        import optuna

        output = self.folder / f"trial-{trial.number}-{number}"
        # A refit would be trained on the dev queries, which compare the trials.
        config = replace(config, seed=self._seeds[number], output_dir=str(output), refit="none")
        tuner = EmbeddingFineTuner(config, cache=self._cache)
        reported = -1.0

        def report(step: int, total: int, latest: dict[str, float]) -> None:
            nonlocal reported
            value = latest.get("dev_mrr")
            if number or value is None or value == reported:
                return
            reported = value
            trial.report(value, round(100 * step / total))
            # The others are compared with the default settings.
            if step < total and trial.params != self.default and trial.should_prune():
                raise optuna.TrialPruned

        try:
            tuner.load_training_data(self._data)
            tuner.initialize_model()
            tuner.train(progress=report)
            scores = tuner.score_dev()
        finally:
            shutil.rmtree(output, ignore_errors=True)
        assert scores is not None  # there are dev queries
        return scores.mrr


def _open(path: Path, *, seed: int) -> optuna.Study:
    try:
        import optuna
        from optuna.exceptions import ExperimentalWarning
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise AceFinetuneError(
            "Hyperparameter search needs the extra tune; install it with "
            "`pip install 'llama-index-ace-finetune[tune]'`."
        ) from error
    # Its warning about a failed trial is a traceback; the error itself is raised.
    optuna.logging.set_verbosity(logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", heartbeat_interval=_HEARTBEAT)
        return optuna.create_study(
            study_name=_NAME,
            storage=storage,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=6),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_PRUNING, reduction_factor=_REDUCTION),
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError, ValueError) as error:
        raise AceFinetuneError(
            f"The study {str(path)!r} cannot be opened ({first_line(error)}); delete it, or give another folder."
        ) from error
