"""The splits of a run with folds."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit, earlier_parts
from llama_index_ace_finetune.datasets.splits.split import Split, k_folds
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.pipeline.check_run import check_run
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.synthetic_queries import split_known


def fold_splits(settings: RunSettings, dataset: RetrievalDataset) -> list[Split]:
    """Return the splits of the second fold and the others; none without folds. The first is the split of the run.

    Args:
        settings: of the run.
        dataset: without synthetic queries.

    Raises:
        DatasetError: if the queries cannot be divided into as many folds, or some of them have a part of their own.
        TrainingError: if a fold has too few training examples.
    """
    if not settings.folds:
        return []
    earlier = EarlierSplit.of_record(read_base_provenance(settings.training.base_model))
    split = split_known(settings, dataset, earlier)
    if split is None:
        raise DatasetError(
            f"{dataset.name}: folds test every query of a user once, and there are none; leave out folds, since more "
            "synthetic queries can be written."
        )
    if not split.test:
        raise DatasetError(f"{dataset.name}: the split has no test part, which is the first fold; set its fraction.")
    if count := len(earlier_parts(dataset, earlier)):
        raise DatasetError(
            f"{dataset.name}: {count} queries have a part of their own, by their field earlier_split or by the earlier "
            "training of the base model, so that there is a test set already; leave out folds."
        )
    others = k_folds(dataset, k=settings.folds, first=split)[1:]
    for other in others if not settings.synthesize else ():  # synthetic queries add to the training examples
        check_run(settings, dataset, other)
    return others
