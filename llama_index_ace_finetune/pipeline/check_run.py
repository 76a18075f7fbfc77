"""What would make a run fail later, checked before anything is read or embedded."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.sparse_encoder import identify_sparse_encoder
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.mining.training_data_generator import choose_queries
from llama_index_ace_finetune.pipeline.choose_base import base_candidates, is_choice
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.training.config import HYBRID_TEACHER
from llama_index_ace_finetune.training.inputs import require_examples
from llama_index_ace_finetune.training.loop.loggers import require_loggers
from llama_index_ace_finetune.training.modes.lora import require_peft


def require_models(settings: RunSettings) -> None:
    """Find or download the models that a run needs, before its data are read; raises ModelError."""
    training = settings.training
    if settings.folds and is_choice(training.base_model):
        raise ModelError("Folds test the training of one base model, and several are given; name one, or no folds.")
    teacher = None if training.teacher == HYBRID_TEACHER else training.teacher
    bases = base_candidates(training.base_model)
    for name in (*(name for name in bases.names if name not in bases.found), teacher, settings.mining.teacher):
        if name:
            resolve_checkpoint(name)
    if settings.sparse_encoder:
        identify_sparse_encoder(settings.sparse_encoder)


def check_run(settings: RunSettings, dataset: RetrievalDataset, split: Split) -> None:
    """Raise what mining or training with these settings would raise.

    Raises:
        DatasetError: if no training query matches the filters.
        TrainingError: if too few do, or a package that the settings need is missing.
    """
    chosen = choose_queries(
        dataset, split, min_difficulty=settings.min_difficulty, skip_categories=settings.skip_categories
    )
    require_examples(sum(part == "train" for part in chosen.values()))
    require_loggers(settings.training)
    if settings.training.lora_rank is not None:
        require_peft()
