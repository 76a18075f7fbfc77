"""Contrastive fine-tuning of an embedding model, from training_data.json to a model folder."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_ace_finetune.datasets.held_out import require_held_out
from llama_index_ace_finetune.datasets.normalise import normalise
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.training.batches import BatchCollator
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.model_folder import check_replaceable, save_model_folder
from llama_index_ace_finetune.training.selection import Selection, copy_weights, select_weights
from llama_index_ace_finetune.training.watcher import StepProgress, TrainingWatcher

logger = logging.getLogger(__name__)

MIN_EXAMPLES = 8


class EmbeddingFineTuner:
    """Fine-tune a sentence-transformers model on training data; ships the base where tuning does not help.

    The order of calls is the original's: `load_training_data`, `initialize_model`, `train` (which also saves the
    winner to `config.output_dir`), `evaluate`.
    """

    def __init__(self, config: TrainingConfig | None = None) -> None:
        self.config = config or TrainingConfig()
        self.data: TrainingData | None = None
        self.encoder: Encoder | None = None
        self.selection: Selection | None = None
        self.history: list[dict[str, float]] = []
        self._train: IndexedExamples | None = None
        self._dev: DevSet | None = None

    def load_training_data(self, source: str | Path | TrainingData) -> dict[str, int]:
        """Read training data and divide it into train and dev; return how many examples each part has.

        Examples marked "dev" are dev; where none is marked, a share of `1 - train_split` is set aside by connected
        components, so that no answer and no query text stands on both sides. Test examples are never touched.

        Raises:
            DatasetError: if the file is not training data.
            LeakageError: if it holds what its own split holds out.
            TrainingError: if there are too few examples.
        """
        data = source if isinstance(source, TrainingData) else TrainingData.load(Path(source))
        require_held_out(data)
        train, dev = divide_examples(data, train_split=self.config.train_split, seed=self.config.seed)
        if len(train) < MIN_EXAMPLES:
            raise TrainingError(
                f"There are {len(train)} training examples, and at least {MIN_EXAMPLES} are needed; "
                "add queries, or filter fewer of them."
            )
        self.data = data
        self._train = index_examples(data, train)
        self._dev = DevSet(index_examples(data, dev)) if dev else None
        return {"train": len(train), "dev": len(dev), "memories": len(self._train.corpus)}

    def initialize_model(self) -> None:
        """Load the base model with its prompts.

        Raises:
            ModelError: if it cannot be found or loaded.
        """
        settings = EncoderSettings(
            max_seq_length=self.config.max_seq_length, device=self.config.device, precision=self.config.precision
        )
        # The fingerprint stays that of the base: it is recorded with the model, and dev scores are not cached by it.
        self.encoder = Encoder.load(self.config.base_model, settings=settings)

    def train(self, *, progress: StepProgress | None = None) -> dict[str, Any]:
        """Train, choose what ships on dev, and save it to `config.output_dir`.

        Returns:
            epochs, total_steps, training_time_seconds, examples_per_second, and `selection`.

        Raises:
            OutputExistsError: if `config.output_dir` holds something that is not a model of ours.
            TrainingError: if the loss is no number, or data and model were not loaded first.
        """
        encoder, examples = self._ready()
        # Before the work, not after it.
        check_replaceable(Path(self.config.output_dir))
        base_weights = copy_weights(encoder)
        base_scores = self._dev.score(encoder) if self._dev else None
        pool = self._dev.pooled(base_scores.rankings, seed=self.config.seed) if self._dev and base_scores else None
        pool_scores = base_scores if pool is self._dev or pool is None else pool.score(encoder)
        watcher = TrainingWatcher(
            encoder,
            pool,
            base_scores=pool_scores,
            eval_steps=self.config.eval_steps,
            patience=self.config.patience,
            progress=progress,
        )
        start = time.perf_counter()
        steps, epochs = self._fit(encoder, examples, watcher)
        seconds = time.perf_counter() - start
        encoder.model.eval()
        encoder.weights_changed()
        self.history = watcher.history
        self.selection = self._select(encoder, base_weights, watcher, base_scores, pool_scores, pool)
        metrics = {
            "epochs": round(epochs, 2),
            "total_steps": steps,
            "training_time_seconds": round(seconds, 2),
            "examples_per_second": round(epochs * len(examples.queries) / seconds, 2),
            "selection": self.selection.to_dict() if self.selection else None,
        }
        self.save_model(metrics)
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Return dev measures of what ships, and the mean cosine of its right pairs (`avg_positive_similarity`)."""
        encoder, examples = self._ready()
        held = self._dev.examples if self._dev else examples
        queries = encoder.encode_queries(held.queries)
        positives = encoder.encode_documents([held.corpus[int(rows[0])] for rows in held.relevant])
        result = {"avg_positive_similarity": float(np.sum(queries * positives, axis=1).mean())}
        if self._dev:
            result.update(self._dev.score(encoder).means)
        return result

    def save_model(self, metrics: dict[str, Any] | None = None) -> Path:
        """Write the model folder: weights, tokenizer, prompts, card, and provenance; whole or not at all."""
        encoder, examples = self._ready()
        assert self.data is not None
        return save_model_folder(
            encoder,
            Path(self.config.output_dir),
            config=self.config,
            selection=self.selection,
            metrics=metrics or {},
            history=self.history,
            data=self.data,
            train=examples,
            dev=self._dev.examples if self._dev else None,
        )

    def _ready(self) -> tuple[Encoder, IndexedExamples]:
        if self._train is None:
            raise TrainingError("No training data is loaded; call load_training_data first.")
        if self.encoder is None:
            raise TrainingError("No model is loaded; call initialize_model first.")
        return self.encoder, self._train

    def _select(
        self,
        encoder: Encoder,
        base_weights: dict[str, Any],
        watcher: TrainingWatcher,
        base_scores: DevScores | None,
        pool_scores: DevScores | None,
        pool: DevSet | None,
    ) -> Selection | None:
        tuned, tuned_scores = watcher.best_weights, watcher.best_scores
        if not (self._dev and base_scores and pool_scores and tuned and tuned_scores):
            logger.warning("there are no dev queries, so whether tuning helped is not known; the tuned model is kept")
            return None
        return select_weights(
            encoder,
            base=base_weights,
            tuned=tuned,
            base_scores=base_scores,
            dev=self._dev,
            shares=self.config.interpolation,
            pool=pool,
            known={0.0: pool_scores, 1.0: tuned_scores},
        )

    def _fit(self, encoder: Encoder, examples: IndexedExamples, watcher: TrainingWatcher) -> tuple[int, float]:
        from datasets import Dataset
        from transformers import PrinterCallback

        from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
        from llama_index_ace_finetune.training.loss import MaskedRankingLoss
        from llama_index_ace_finetune.training.trainer import ContrastiveTrainer, planned_steps, training_arguments

        model, config = encoder.model, self.config
        bfloat16 = encoder.settings.precision == "bfloat16"

        def collator() -> BatchCollator:
            return BatchCollator(
                preprocess=model.preprocess,
                examples=examples,
                hard_negatives=config.hard_negatives,
                query_prompt=model.prompts.get("query") or "",
                document_prompt=model.prompts.get("document") or "",
            )

        loss = MaskedRankingLoss(
            model, temperature=config.temperature, packed=bfloat16 and PackedEncoder.supports(model)
        )
        steps = planned_steps(config, loss, collator(), bfloat16=bfloat16)
        with tempfile.TemporaryDirectory(prefix="ace-finetune-") as scratch:
            trainer = ContrastiveTrainer(
                model=model,
                args=training_arguments(
                    config, steps=steps, device=model.device.type, bfloat16=bfloat16, scratch=scratch
                ),
                train_dataset=Dataset.from_dict({"example": list(range(len(examples.queries)))}),
                loss=loss,
                data_collator=collator(),  # type: ignore[arg-type]  # it is called, never subclassed
                callbacks=[watcher],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            return int(trainer.state.global_step), float(trainer.state.epoch or 0.0)


def divide_examples(
    data: TrainingData, *, train_split: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Return the train and the dev examples; test examples are in neither.

    Negatives of train examples that are right answers of dev or test queries are left out.
    """
    usable = [example for example in data.examples if example.split != "test"]
    dev = [example for example in usable if example.split == "dev"]
    if not dev and not any(example.split == "train" for example in usable):
        dev_ids = _dev_by_component(data, usable, train_split=train_split, seed=seed)
        dev = [example for example in usable if example.query_id in dev_ids]
    held = {example.query_id for example in dev}
    answers = {identifier for example in dev for identifier in example.positive_ids}
    train = [
        dataclasses.replace(example, negatives=tuple(n for n in example.negatives if n.memory_id not in answers))
        for example in usable
        if example.query_id not in held
    ]
    return train, dev


def _dev_by_component(
    data: TrainingData, examples: list[TrainingExample], *, train_split: float, seed: int
) -> set[str]:
    from llama_index_ace_finetune.datasets.split import split_dataset
    from llama_index_ace_finetune.datasets.split_settings import SplitSettings
    from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset

    dataset = RetrievalDataset(
        name="training data",
        memories={identifier: Memory(identifier, text) for identifier, text in data.memories.items()},
        queries={example.query_id: Query(example.query_id, normalise(example.query)) for example in examples},
        judgements={example.query_id: dict.fromkeys(example.positive_ids, 1.0) for example in examples},
    )
    settings = SplitSettings(train=train_split, dev=1 - train_split, test=0.0, seed=seed)
    return set(split_dataset(dataset, settings=settings).dev)
