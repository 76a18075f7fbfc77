"""TrainingInputs: the training data, divided and checked, and the further data that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.held_out import HeldOut
from llama_index_ace_finetune.datasets.splits.leakage import require_held_out
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.derived_tasks import derive_task
from llama_index_ace_finetune.training.data.divide_examples import divide_examples
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.data.further_tasks import further_tasks
from llama_index_ace_finetune.training.data.remined_negatives import mining_settings_of
from llama_index_ace_finetune.training.data.task import TrainingTask
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.retention import read_retention
from llama_index_ace_finetune.training.model_selection.synthetic_dev import largest_alpha
from llama_index_ace_finetune.utils.atomic import write_text

logger = logging.getLogger(__name__)

MIN_EXAMPLES = 8
_KEY = "inputs.sha256"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingInputs:
    """What a training reads.

    Attributes:
        data: as they were loaded.
        train: the examples that are trained on.
        dev: the dev queries; None if there are none.
        held_out: what no further dataset may hold.
        test: the test examples, for a refit on all queries; else None.
        general: the queries of `config.retention`; None if it is not set.
        mining: settings with which the negatives were mined, if they are mined again; else the defaults.
        further: a task per further dataset.
        largest_alpha: that may ship after a selection on the dev queries, see `model_selection.synthetic_dev`.
    """

    data: TrainingData
    train: IndexedExamples
    dev: DevSet | None
    held_out: HeldOut
    test: IndexedExamples | None = None
    general: DevSet | None = None
    mining: MiningSettings = field(default_factory=MiningSettings)
    further: tuple[TrainingTask, ...] = ()
    largest_alpha: float = 1.0

    @classmethod
    def load(
        cls, source: str | Path | TrainingData, config: TrainingConfig, *, held_out_queries: Iterable[str] = ()
    ) -> TrainingInputs:
        """Read training data and what the settings name; see `EmbeddingFineTuner.load_training_data`."""
        data = source if isinstance(source, TrainingData) else TrainingData.load(Path(source))
        require_held_out(data)
        train, dev = divide_examples(data, train_split=config.train_split, seed=config.seed)
        require_examples(len(train))
        examples = index_examples(data, train)
        if len({int(row) for rows in examples.relevant for row in rows}) == 1 and not any(map(len, examples.negatives)):
            raise TrainingError(
                "All training queries have the same positive and no negatives, so there is nothing to learn; add "
                "queries about other memories, or mine negatives."
            )
        mining = mining_settings_of(data.metadata) if config.remine else MiningSettings()
        test = _test_examples(data) if config.refit == "all" else None
        general = read_retention(Path(config.retention)) if config.retention else None
        held_out = HeldOut.of(data, dev, held_out_queries)
        return cls(
            data=data,
            train=examples,
            dev=DevSet(index_examples(data, dev)) if dev else None,
            held_out=held_out,
            test=test,
            general=general,
            mining=mining,
            further=further_tasks(config.also, held_out, train_split=config.train_split, seed=config.seed),
            largest_alpha=largest_alpha(dev),
        )

    def derived_tasks(self, config: TrainingConfig) -> list[TrainingTask]:
        """Return the tasks of the settings for which the data have material."""
        held_out = self.held_out.holds_answer(self.train.corpus)
        found = {
            name: derive_task(
                name,
                self.train,
                metadata=self.data.memory_metadata,
                held_out=held_out,
                dev=1 - config.train_split,
                seed=config.seed,
            )
            for name in dict.fromkeys(config.tasks)
        }
        for name in (name for name, task in found.items() if task is None):
            logger.warning("the task %r is left out: the training data hold too few related texts for it", name)
        return [task for task in found.values() if task]

    def require_own_checkpoints(self, folder: Path, config: TrainingConfig, *, fingerprint: str) -> None:
        """Refuse checkpoints of other data, settings or weights, which a training would otherwise resume.

        Raises:
            TrainingError: if there are such.
        """
        settings = {name: value for name, value in config.to_dict().items() if name != "output_dir"}
        dev = self.dev.examples if self.dev else None
        parts = (self.train, dev, self.test, *(task.examples for task in self.further))
        inputs = repr((settings, fingerprint, *(_rows_of(part) for part in parts if part)))
        file, key = folder / _KEY, text_hash(inputs)
        if file.is_file() and file.read_text(encoding="utf-8") != key:
            raise TrainingError(
                f"The checkpoints in {str(folder)!r} are of a training with other data or settings; give another "
                "folder, or delete it."
            )
        write_text(file, key)


def require_examples(count: int) -> None:
    """Raise TrainingError if there are fewer than `MIN_EXAMPLES` training queries."""
    if count < MIN_EXAMPLES:
        raise TrainingError(
            f"There are {count} training examples, and at least {MIN_EXAMPLES} are needed; add queries, or filter "
            "fewer of them."
        )


def _test_examples(data: TrainingData) -> IndexedExamples | None:
    """Return the test examples; None where there are none, and no split holds any back."""
    test = data.examples_of("test")
    held_back = len(((data.split or {}).get("queries") or {}).get("test") or {})
    if not test and held_back:
        raise TrainingError(
            f"The training setting refit is 'all', and the training data do not hold the {held_back} test queries of "
            "their split; set it in `run`, which reads them, or to 'dev'."
        )
    return index_examples(data, test) if test else None


def _rows_of(examples: IndexedExamples) -> tuple[Any, ...]:
    """What a training reads of its examples, as plain values."""
    rows = [[row.tolist() for row in kind] for kind in (examples.relevant, examples.negatives, examples.judged)]
    return examples.query_ids, examples.queries, examples.corpus, *rows
