"""Contrastive fine-tuning of an embedding model, from training_data.json to a model folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.mining.settings import margin_warnings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.task_batches import sampling_probabilities
from llama_index_ace_finetune.training.inputs import MIN_EXAMPLES, TrainingInputs, require_examples
from llama_index_ace_finetune.training.load_base import load_base, require_single_encoder
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.model_selection.base_choice import BaseChoice
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores
from llama_index_ace_finetune.training.model_selection.interpolation import Selection
from llama_index_ace_finetune.training.model_selection.task_results import TaskResult, task_mrr, task_results
from llama_index_ace_finetune.training.modes.refit import Refit, config_for_selection, refit_kind, refit_selected
from llama_index_ace_finetune.training.modes.result import ModeResult, best_result
from llama_index_ace_finetune.training.modes.schedule import MODES, OnModeEnd, OnModeStart, run_modes
from llama_index_ace_finetune.training.modes.synthetic_queries import SyntheticChoice, choose_synthetic
from llama_index_ace_finetune.training.ranks import ONE, Ranks
from llama_index_ace_finetune.training.saving.model_folder import MODEL, save_model_folder
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import require_replaceable

logger = logging.getLogger(__name__)

_KEEP_INDEX = frozenset(mode.name for mode in MODES if mode.keeps_index)


class EmbeddingFineTuner:
    """Fine-tune a sentence-transformers model on training data; keeps the base model if tuning does not help.

    Args:
        config: of the training.
        cache: folder for vectors of the base model, such as the miner's; none by default.
        checkpoints: folder for checkpoints, from which a training with the same data and settings resumes; none by
            default. It can be deleted once the training is done.
        ranks: the processes of the training, of which this is the first; only this one by default.
        selected: folder for the weights that were selected on dev, written if a refit ships in their place, and without
            which "auto" means no refit; none by default.

    The order of calls is the original's: `load_training_data`, `initialize_model`, `train` (which also saves the
    winner to `config.output_dir`), `evaluate`.
    """

    def __init__(
        self,
        config: TrainingConfig | None = None,
        *,
        cache: Path | None = None,
        checkpoints: Path | None = None,
        ranks: Ranks = ONE,
        selected: Path | None = None,
    ) -> None:
        self.config = config or TrainingConfig()
        for warning in margin_warnings("suspected_margin", self.config.suspected_margin):
            logger.warning("%s", warning)
        self.encoder: Encoder | None = None
        self.results: list[ModeResult] = []
        self.synthetic: SyntheticChoice | None = None
        self.tasks: list[TaskResult] = []
        self.refit: Refit | None = None
        self._trained_on: IndexedExamples | None = None
        self.bases: BaseChoice | None = None
        self.history: list[Mapping[str, float]] = []
        self._cache = cache
        self._checkpoints = checkpoints
        self._ranks = ranks
        self._selected = selected
        self._inputs: TrainingInputs | None = None
        self._started_from: Encoder | None = None
        self._metrics: dict[str, Any] = {}

    @property
    def data(self) -> TrainingData | None:
        """The training data that are loaded."""
        return self._inputs.data if self._inputs else None

    def load_training_data(
        self, source: str | Path | TrainingData, *, held_out_queries: Iterable[str] = ()
    ) -> dict[str, int]:
        """Read training data and divide it into train and dev; return how many examples each part has.

        Examples marked "dev" are dev; if none is marked, a fraction of `1 - train_split` is set aside by connected
        components, so that no positive and no query text appears in both. Data with the manifest of a split without
        dev is all trained on. Test examples are used by a refit on all queries only, after the selection.

        Args:
            source: the file, or its content.
            held_out_queries: texts of further held-out queries, such as those of test, of which training data hold
                hashes only: near-duplicates of them are left out of further datasets.

        Raises:
            DatasetError: if the file is not training data, the retention set or a further dataset cannot be read, or
                nothing is left of a further dataset.
            LeakageError: if it holds what its own split holds out.
            TrainingError: if there are too few examples, their negatives cannot be mined again as `config.remine`
                asks for, or `config.refit` asks for test queries that the data do not hold.
        """
        self._inputs = inputs = TrainingInputs.load(source, self.config, held_out_queries=held_out_queries)
        dev = len(inputs.dev.examples.queries) if inputs.dev else 0
        return {"train": len(inputs.train.queries), "dev": dev, "memories": len(inputs.train.corpus)}

    def initialize_model(self) -> None:
        """Load the base model with its prompts.

        Raises:
            ModelError: if it, or the teacher, cannot be found or loaded, or it is a dual encoder already.
            TrainingError: if peft or a logger is needed and not installed, or a value of `dimensions` is too large.
        """
        self.encoder = load_base(self.config)

    def train(
        self,
        *,
        progress: StepProgress | None = None,
        on_mode_end: OnModeEnd | None = None,
        on_mode_start: OnModeStart | None = None,
        on_phase: Callable[[str], object] | None = None,
    ) -> dict[str, Any]:
        """Train, choose what ships on dev, and save it to `config.output_dir`.

        Args:
            progress: called after each optimiser step.
            on_mode_end: called with the result of each mode.
            on_mode_start: called with the name and the planned steps of a mode before its first step.
            on_phase: called with the name of each phase that begins: a mode, or its evaluation.

        Returns:
            mode (the selected mode, or "base"), precision, epochs, total_steps, training_time_seconds,
            examples_per_second, `selection`, and `results`.

        Raises:
            OutputExistsError: if `config.output_dir` holds something that is not a model of ours.
            AceFinetuneError: if another training writes there at the moment.
            TrainingError: if the loss is NaN or infinite, the checkpoints are of another training, or data and model
                were not loaded first.
        """
        encoder, inputs = self._ready()
        require_single_encoder(encoder)
        self._started_from = encoder
        self.refit = self._trained_on = None
        output = Path(self.config.output_dir)
        # Check before the work, not after it.
        require_replaceable(output, kind=MODEL)
        with locked(output.with_name(f".{output.name}.training.lock"), output=output):
            return self._train_and_save(
                encoder,
                inputs,
                progress=progress,
                on_mode_end=on_mode_end,
                on_mode_start=on_mode_start,
                on_phase=on_phase or (lambda name: None),
            )

    def _train_and_save(
        self,
        encoder: Encoder,
        inputs: TrainingInputs,
        *,
        progress: StepProgress | None,
        on_mode_end: OnModeEnd | None,
        on_mode_start: OnModeStart | None,
        on_phase: Callable[[str], object],
    ) -> dict[str, Any]:
        if self._checkpoints:
            inputs.require_own_checkpoints(self._checkpoints, self.config, fingerprint=encoder.fingerprint)
        if inputs.dev is None:
            logger.warning("there are no dev queries: the result of the training ships without validation")
        if inputs.largest_alpha < 1:
            logger.warning(
                "the dev queries are synthetic and cannot show what queries of users lose: at most %g of the way from "
                "the base model to the tuned one ships",
                inputs.largest_alpha,
            )
        context = TrainingContext(
            encoder,
            inputs.train,
            inputs.dev,
            config_for_selection(self.config),
            self._cache,
            self._checkpoints,
            inputs.general,
            on_phase,
            mining=inputs.mining,
            ranks=self._ranks,
            largest_alpha=inputs.largest_alpha,
        )
        started = time.perf_counter()
        context, self.synthetic = choose_synthetic(context, at_least=MIN_EXAMPLES)
        examples = context.examples
        self._inputs = inputs = replace(inputs, train=examples)
        require_examples(len(examples.queries))
        context = context.with_tasks((*inputs.further, *inputs.derived_tasks(self.config)))
        self.results = run_modes(
            context, progress=progress, on_mode_end=on_mode_end, on_mode_start=on_mode_start, started=started
        )
        shipped, last = self.shipped, self.results[-1]
        if context.tasks:
            on_phase("evaluating tasks")
        by_task = [task_mrr(task, encoder, cache=self._cache) for task in context.tasks]
        if shipped:
            built = self._refitted(context, shipped, started=started, progress=progress, on_mode_start=on_mode_start)
            self.encoder = _built(shipped, encoder)
        self.tasks = self._task_results(context, by_task)
        self.history = list((shipped or last).history)
        reported = shipped or last
        seconds = sum(result.seconds for result in self.results)
        metrics = {
            "mode": shipped.name if shipped else "base",
            "precision": encoder.compute_backend,
            "epochs": round(reported.epochs, 2),
            "total_steps": reported.steps,
            "training_time_seconds": round(seconds, 2),
            "examples_per_second": round(reported.epochs * len(examples.queries) / reported.seconds, 2),
            "selection": self.selection.to_dict() if self.selection else None,
            "synthetic": self.synthetic.to_dict() if self.synthetic else None,
            "rungs": [result.to_dict() for result in self.results],
            **({"bases": self.bases.to_dict()} if self.bases else {}),
            **({"tasks": [result.to_dict() for result in self.tasks]} if self.tasks else {}),
        }
        self._metrics = metrics
        if self.refit and self.refit.ships:
            if self._selected:
                self._save(self._selected, trained_on=examples)
            self.encoder = _built(built, encoder)
        if self.refit:
            metrics["refit"] = self.refit.to_dict()
        self.save_model()
        return metrics

    def _task_results(self, context: TrainingContext, base: list[NDArray[np.float64] | None]) -> list[TaskResult]:
        """Compare the base, whose values are given, with what ships on the dev queries of each further task."""
        encoder, inputs = self._ready()
        tasks = context.tasks
        sizes = [len(inputs.train.queries), *(len(task.examples.queries) for task in tasks)]
        probabilities = sampling_probabilities(sizes, self.config.task_temperature).tolist()[1:]
        return task_results(
            tasks, probabilities, base, [task_mrr(task, encoder) for task in tasks] if self.shipped else base
        )

    def _refitted(
        self,
        context: TrainingContext,
        shipped: ModeResult,
        *,
        started: float,
        progress: StepProgress | None,
        on_mode_start: OnModeStart | None,
    ) -> ModeResult:
        """Return what ships: the selected result, or its refit."""
        _, inputs = self._ready()
        measured = self._selected is not None and context.dev is not None
        kind = refit_kind(self.config, [shipped.name], measured=measured)
        if kind == "none":
            return shipped
        if context.dev is None:
            logger.warning("refit: there are no dev queries, so all queries have been trained on already")
            return shipped
        budget = self.config.budget_minutes
        built, self._trained_on, self.refit = refit_selected(
            context,
            shipped,
            on=kind,
            test=inputs.test,
            asked=self.config.refit != "auto",
            minutes=None if budget is None else max(budget - (time.perf_counter() - started) / 60, 1e-6),
            progress=progress,
            on_plan=lambda plan: on_mode_start("refit", plan) if on_mode_start else None,
        )
        return built

    @property
    def shipped(self) -> ModeResult | None:
        """The mode whose model ships; None if the base ships."""
        return best_result(self.results)

    @property
    def selection(self) -> Selection | None:
        """The dev candidates of the mode that ships (of the last one, if none does); None without dev queries."""
        result = self.shipped or (self.results[-1] if self.results else None)
        return result.selection if result else None

    def score_dev(self) -> DevScores | None:
        """Return the values of each dev query with what ships; None without dev queries."""
        encoder, inputs = self._ready()
        return inputs.dev.score(encoder) if inputs.dev else None

    def evaluate(self) -> dict[str, float]:
        """Return dev metrics of what ships, and the mean cosine of positives (`avg_positive_similarity`).

        After a refit they are too good, since its model was trained on the dev queries.
        """
        encoder, inputs = self._ready()
        held = inputs.dev.examples if inputs.dev else inputs.train
        queries = encoder.encode_queries(held.queries)
        positives = encoder.encode_documents([held.corpus[int(rows[0])] for rows in held.relevant])
        result = {"avg_positive_similarity": float(np.sum(queries * positives, axis=1).mean())}
        if inputs.dev:
            result.update(inputs.dev.score(encoder).means)
        return result

    def save_model(self) -> Path:
        """Write the model folder: weights, tokenizer, prompts, card, and provenance; whole or not at all."""
        encoder, inputs = self._ready()
        folder = self._save(Path(self.config.output_dir), trained_on=self._trained_on or inputs.train)
        identity = identify_model(folder, settings=encoder.settings)
        self.encoder = Encoder(
            encoder.model,
            name=str(folder),
            fingerprint=identity.fingerprint,
            settings=encoder.settings,
            document_fingerprint=identity.documents,
            folder=folder,
        )
        return folder

    def _save(self, folder: Path, *, trained_on: IndexedExamples) -> Path:
        """Write the present weights with their record to a folder."""
        encoder, inputs = self._ready()
        return save_model_folder(
            encoder,
            folder,
            base=self._started_from or encoder,
            config=self.config,
            selection=self.selection,
            metrics=self._metrics,
            history=self.history,
            data=inputs.data,
            train=trained_on,
            dev=inputs.dev.examples if inputs.dev else None,
            further=[task.examples for task in inputs.further],
            # Without a training nothing is known of the weights: a caller may have changed them.
            keeps_documents=bool(self.results) and (self.shipped is None or self.shipped.name in _KEEP_INDEX),
            token_projection=self.shipped.token_projection if self.shipped else None,
        )

    def _ready(self) -> tuple[Encoder, TrainingInputs]:
        if self._inputs is None:
            raise TrainingError("No training data is loaded; call load_training_data first.")
        if self.encoder is None:
            raise TrainingError("No model is loaded; call initialize_model first.")
        return self.encoder, self._inputs


def _built(result: ModeResult, base: Encoder) -> Encoder:
    """Return the encoder of a result; its fingerprint is set when its files are written."""
    return Encoder(result.build(base.model), name=base.name, fingerprint="", settings=base.settings)
