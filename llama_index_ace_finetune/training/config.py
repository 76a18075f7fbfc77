"""Training settings, frozen and validated."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.old_settings import LARGE_MARGIN, current_training
from llama_index_ace_finetune.utils.read_yaml import read_yaml_file

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT_VERSION = 2

ModeName = Literal["linear", "queries", "in_batch", "full", "towers"]
"""Training modes, cheapest first; each is a file in `training/modes/`."""

DistillationName = Literal["kl", "margin_mse"]
"""Distillation losses; each is a function in `training/losses/distillation.py`."""

TaskName = Literal["duplicates", "paraphrases", "category", "structure"]
"""Tasks made from the training data themselves; each is a function in `training/data/derived_tasks.py`."""

HYBRID_TEACHER = "hybrid"
"""The teacher that is the base model fused with BM25."""

_WHOLE_OR_NONE = frozenset({"eval_steps", "patience", "lora_rank", "max_seq_length", "late_interaction_dimensions"})
_WHOLE = (
    "epochs",
    "batch_size",
    "warmup_steps",
    "hard_negatives",
    "remine",
    "cluster_size",
    "frozen_layers",
    "seed",
    *sorted(_WHOLE_OR_NONE),
)

_TEXTS = ("base_model", "output_dir", "teacher", "retention", "device", "query_prompt", "document_prompt")
_SWITCHES = ("keep_index", "symmetric")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of `EmbeddingFineTuner`.

    Attributes:
        base_model: hub name or folder; in `run` and `train` also several, separated by commas, or "auto" for those on
            this machine, of which dev chooses the one that is tuned.
        output_dir: where the model folder is written.
        mode: "linear" (a linear adapter on the query vectors; seconds), "queries" (a query encoder; a minute or two),
            "full" (queries and documents; minutes), "in_batch" (full without mined negatives), "towers" (full, then a
            separate query encoder over the tuned documents), or "auto": those that pay, and the best on dev ships.
        keep_index: run only modes that keep stored document vectors valid.
        epochs: of mode "full", at most.
        budget_minutes: time limit for all modes, dev evaluations included; if the epochs would take longer, fewer steps
            are planned and the schedule is fitted to them. None trains all epochs.
        batch_size: queries per step of mode "full".
        learning_rate: of mode "full", peak of the schedule (linear warm-up, linear decay).
        warmup_steps: steps of warm-up, at most a tenth of all steps.
        train_split: fraction of the training queries to train on; the rest is dev. Used only if the training data does
            not mark dev queries.
        hard_negatives: mined negatives per query and step; they rotate over the epochs.
        remine: how many times during a training of mode "full" the negatives of the training queries are mined again
            with the weights of then, at equal distances; as often as fits the budget. Only queries whose first ten
            documents have changed get new negatives.
        suspected_margin: in mode "full", documents of a batch are masked for a query where their cosine with it, by the
            base model, comes within this relative margin of the positive's (0.05: exceeds 95% of it; a
            `GISTEmbedLoss` with `margin_strategy="relative"`), or where they are near-duplicates of a positive;
            0 masks what the base ranks above the positive. None masks only known positives, since a
            weak base flags mostly the mistakes that training should fix.
        refit: "dev" trains the mode that was selected on dev once more, on train and dev queries: with its steps in
            proportion, and its alpha. That model ships, which dev cannot measure any more. "all" trains on the test
            queries too, so that nothing can measure it; "none" ships the selected one. "auto" is "dev" in a run, which
            measures the model on test queries, if the budget has time left for it, and "none" elsewhere. Only
            "in_batch" and "full" are trained again.
        temperature: divisor of the cosines in the softmax.
        symmetric: also compute the loss from documents to queries.
        cluster_size: in mode "full", a batch is made of clusters of this many queries about neighbouring documents, by
            the base model's vectors, whose positives are hard negatives of each other. 1 draws each query by itself.
        frozen_layers: in mode "full", the embeddings and this many of the lowest layers are not trained, which saves
            time: more steps fit into the budget.
        dimensions: Matryoshka prefix lengths to train besides the full vector, such as (256, 128).
        late_interaction_weight: in mode "full", weight of a second loss, over the MaxSim of the token vectors of the
            same forward pass, for re-ranking by late interaction; the loss of the single vectors has weight 1. 0 trains
            single vectors only.
        late_interaction_temperature: divisor of MaxSim, a mean of cosines, in its softmax.
        late_interaction_dimensions: length of the token vectors, by a projection that is trained along, from the
            principal components of the base's token vectors; None leaves them as long as the model's token states.
        teacher: a cross-encoder or a larger embedding model, by folder or hub name, whose scores are distilled; or
            "hybrid" for the base model fused with BM25, which teaches the single vectors what the words add.
        distillation: how: "kl" (listwise) or "margin_mse".
        eval_steps: evaluate on dev every N steps; None evaluates after each epoch.
        patience: stop after N dev evaluations in a row without a new best; None never stops early.
        interpolation: values of alpha to try on dev, for weights between base (0) and tuned (1).
        retention: general queries with known positives, a file or folder in any supported format, on which MRR@10 may
            not fall by more than `retention_loss`; smaller alphas are tried if it would.
        retention_loss: the largest allowed fall of MRR@10 on them, absolute.
        lora_rank: in mode "full", train low-rank adapters of this rank in place of the weights, for larger base models
            (LoRA, Hu et al. 2021; needs the extra "lora", and no lower a learning rate than the default); they are
            merged into the weights at the end. None trains all weights.
        lora_alpha: scale of the adapters, over the rank; None takes twice the rank.
        lora_dropout: dropout probability of their inputs.
        max_seq_length: tokens per text of a training step; the base model's limit if that is lower. Dev evaluation and
            serving use whole texts, up to the model's limit.
        precision: of all vectors: "float32", "bfloat16", or "auto" for bfloat16 where the device computes in it.
        device: "cpu", "cuda", "mps"; None, or "auto", takes the best one.
        query_prompt: text in front of every query; None takes that of the base model or its family, "" none.
        document_prompt: the same for documents.
        seed: random seed.
        report_to: in mode "full", loggers of the transformers trainer, ("tensorboard",) or ("wandb",) for example;
            TensorBoard's files go to a folder beside the model, OUTPUT_DIR-logs.
        synthetic_weight: of synthetic queries in the losses, beside queries of users, which have weight 1.
        also: further datasets to train on, by file or folder, each as a task with a corpus of its own; dev queries of
            the main data decide what ships. For modes that train all weights.
        tasks: further tasks made from the main data: "duplicates" (memories that are relevant to one query, or have the
            same title), "paraphrases" (queries with the same positive), "category" (memories of the same category),
            "structure" (the title and the two halves of a memory, and memories of the same section; needs no label).
        task_temperature: of the sampling of tasks: one with n queries has a share of the batches in proportion to
            n^(1/task_temperature); 1 samples by size, large values all alike.
    """

    base_model: str = DEFAULT_BASE_MODEL
    output_dir: str = "ace_finetuned"
    mode: Literal["auto"] | ModeName = "auto"
    keep_index: bool = False
    epochs: int = 4
    budget_minutes: float | None = 10.0
    batch_size: int = 64
    learning_rate: float = 1e-4
    warmup_steps: int = 100
    train_split: float = 0.8
    hard_negatives: int = 1
    remine: int = 0
    suspected_margin: float | None = None
    refit: Literal["auto", "none", "dev", "all"] = "auto"
    temperature: float = 0.05
    symmetric: bool = False
    cluster_size: int = 16
    frozen_layers: int = 0
    dimensions: tuple[int, ...] = ()
    late_interaction_weight: float = 0.0
    late_interaction_temperature: float = 0.05
    late_interaction_dimensions: int | None = None
    teacher: str | None = None
    distillation: DistillationName = "kl"
    eval_steps: int | None = None
    patience: int | None = 3
    interpolation: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    retention: str | None = None
    retention_loss: float = 0.01
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    max_seq_length: int | None = 256
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    seed: int = 0
    report_to: tuple[str, ...] = ()
    synthetic_weight: float = 0.5
    also: tuple[str, ...] = ()
    tasks: tuple[TaskName, ...] = ()
    task_temperature: float = 2.0

    def __post_init__(self) -> None:
        for name in ("also", "tasks"):
            self._require(not isinstance(getattr(self, name), str), name, "a list of texts")
        object.__setattr__(self, "also", tuple(str(path) for path in self.also))
        for name in ("interpolation", "dimensions", "report_to", "tasks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.device == "auto":
            object.__setattr__(self, "device", None)
        for name in _TEXTS:
            value = getattr(self, name)
            self._require(value is None or isinstance(value, (str, Path)), name, "a text")
        for name in _SWITCHES:
            self._require(isinstance(getattr(self, name), bool), name, "true or false")
        for name in _WHOLE:
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            self._require(whole or (value is None and name in _WHOLE_OR_NONE), name, "a whole number")
            object.__setattr__(self, name, None if value is None else int(value))
        self._require(
            self.mode in ("auto", *get_args(ModeName)), "mode", f"auto or one of {', '.join(get_args(ModeName))}"
        )
        self._require(
            not (self.keep_index and self.mode in ("in_batch", "full", "towers")),
            "mode",
            "auto, linear or queries when keep_index is set",
        )
        for name in ("epochs", "batch_size", "cluster_size"):
            self._require(getattr(self, name) > 0, name, "greater than 0")
        for name in (
            "learning_rate",
            "temperature",
            "task_temperature",
            "late_interaction_temperature",
            "synthetic_weight",
        ):
            self._require(0 < getattr(self, name) < math.inf, name, "greater than 0, and finite")
        weight, length = self.late_interaction_weight, self.late_interaction_dimensions
        self._require(0 <= weight < math.inf, "late_interaction_weight", "0 or more, and finite")
        self._require(length is None or length > 0, "late_interaction_dimensions", "greater than 0")
        trained = length is None or weight > 0
        self._require(trained, "late_interaction_dimensions", "left out unless late_interaction_weight is above 0")
        self._require(self.budget_minutes is None or self.budget_minutes > 0, "budget_minutes", "greater than 0")
        self._require(0 < self.train_split < 1, "train_split", "between 0 and 1")
        self._require(self.warmup_steps >= 0, "warmup_steps", "0 or more")
        for name in ("hard_negatives", "remine", "frozen_layers"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(not self.remine or self.hard_negatives > 0, "remine", "0 where hard_negatives is 0")
        self._require(self.refit in ("auto", "none", "dev", "all"), "refit", "auto, none, dev or all")
        asked = self.refit in ("dev", "all")
        self._require(not asked or self.refittable, "refit", "auto or none with late interaction or further tasks")
        scored = "0 with a teacher, which scores the negatives before the training"
        self._require(not self.remine or self.teacher is None, "remine", scored)
        self._require(self.seed >= 0, "seed", "0 or more")
        self._require(self.max_seq_length is None or self.max_seq_length > 0, "max_seq_length", "greater than 0")
        margin = self.suspected_margin
        self._require(margin is None or -math.inf < margin < 1, "suspected_margin", "below 1, and finite")
        self._require(0 <= self.retention_loss <= 1, "retention_loss", "from 0 to 1")
        self._require(self.lora_rank is None or self.lora_rank > 0, "lora_rank", "greater than 0")
        self._require(self.lora_alpha is None or self.lora_alpha > 0, "lora_alpha", "greater than 0")
        self._require(0 <= self.lora_dropout < 1, "lora_dropout", "0 or more, and less than 1")
        self._require(self.eval_steps is None or self.eval_steps > 0, "eval_steps", "greater than 0")
        self._require(self.patience is None or self.patience > 0, "patience", "greater than 0")
        alphas = self.interpolation
        self._require(bool(alphas) and all(0 < a <= 1 for a in alphas), "interpolation", "one or more values in (0, 1]")
        self._require(all(length > 0 for length in self.dimensions), "dimensions", "greater than 0, each of them")
        distillations = get_args(DistillationName)
        self._require(self.distillation in distillations, "distillation", f"one of {', '.join(distillations)}")
        self._require(all(self.also), "also", "paths of data sets, none of them empty")
        known = set(get_args(TaskName))
        self._require(known.issuperset(self.tasks), "tasks", f"a list of {', '.join(get_args(TaskName))}")
        all_weights = not self.keep_index and self.mode not in ("linear", "queries")
        for name in ("also", "tasks"):
            rule = "left out in modes linear and queries and with keep_index, which train on the main data only"
            self._require(all_weights or not getattr(self, name), name, rule)
        self._require(self.precision in ("auto", "float32", "bfloat16"), "precision", "auto, float32 or bfloat16")

    def _require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise AceFinetuneError(f"The training setting {name} is {quoted(getattr(self, name))}; it must be {rule}.")

    @property
    def refittable(self) -> bool:
        """Whether the selected mode can be trained once more: not with late interaction or further tasks."""
        return not (self.late_interaction_weight or self.also or self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    def save(self, path: Path) -> None:
        """Write the settings as JSON."""
        content = {"format_version": FORMAT_VERSION, **self.to_dict()}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read settings from a JSON or YAML file.

        In a file without a format version, such as `save` of 0.1.0 wrote, a `suspected_margin` above 0.5 is the part of
        the positive's score that it was then.

        Raises:
            AceFinetuneError: if it cannot be read, or a setting is unknown or out of range.
        """
        content = read_yaml_file(path, Refusal("The settings", "correct the file")).value
        if not isinstance(content, dict):
            raise AceFinetuneError(
                f"The settings {str(path)!r} are not a YAML mapping of names to values; fix the file."
            )
        content = _current(content)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(str(name) for name in set(content) - set(fields))
        if unknown:
            raise AceFinetuneError(
                f"The settings {str(path)!r} hold the unknown name {quoted(unknown[0])}; leave it out."
            )
        try:
            for name, value in content.items():
                # YAML reads 5e-5, without a decimal point, as a string.
                if isinstance(value, str) and isinstance(fields[name].default, float):
                    content[name] = float(value)
            return cls(**content)
        except (TypeError, ValueError, OverflowError) as error:
            raise AceFinetuneError(f"A setting in {str(path)!r} is of the wrong type ({error}); correct it.") from error


def _current(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a file holds with the margin of `FORMAT_VERSION`, without the version."""
    content = dict(content)
    margin = content.get("suspected_margin")
    old = content.pop("format_version", None) != FORMAT_VERSION
    return current_training(content) if old and isinstance(margin, float) and margin > LARGE_MARGIN else content
