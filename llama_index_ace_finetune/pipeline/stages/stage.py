"""What every stage of a run has: a name, outputs, a key of its inputs, how it runs, how long it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.split import Split
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.sparse_encoder import load_sparse_vectors
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.model_selection.base_choice import BaseChoice
from llama_index_ace_finetune.training.modes.mode import Speed, TrainingSizes
from llama_index_ace_finetune.training.ranks import ONE, Ranks


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What the stages of one run share.

    Attributes:
        settings: of the run.
        dataset: queries, memories, judgements.
        split: train, dev and test queries.
        base: the base model.
        folder: the new run folder, not yet in its place.
        work: the work folder: `vectors` is a cache, `training` holds checkpoints.
        events: receives progress.
        bases: how the base model was chosen; None where the settings name one.
        folds: splits of the second fold and the others, without synthetic queries; none without folds.
        read: the dataset without the synthetic queries of the run.
        vectors: folder of cached vectors; `vectors` in the work folder by default.
        ranks: the processes that divide the batches of the training, of which this is the first.
        loaded_sparse: vectors by the sparse encoder of the settings, if they are loaded already.
        kept_tokens: token vectors that the evaluation made of the corpus, by the fingerprint of their model.
    """

    settings: RunSettings
    dataset: RetrievalDataset
    split: Split
    base: Encoder
    folder: RunFolder
    work: Path
    events: PipelineEvents
    bases: BaseChoice | None = None
    folds: Sequence[Split] = ()
    read: RetrievalDataset | None = None
    vectors: Path | None = None
    ranks: Ranks = ONE
    loaded_sparse: StoredSparseVectors | None = None
    kept_tokens: dict[str, TokenReranker] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Folder of cached vectors."""
        return self.vectors or self.work / "vectors"

    @property
    def miner(self) -> HardNegativeMiner:
        """A miner by the base model and the settings of the run."""
        training = self.settings.training
        return HardNegativeMiner(
            model=training.base_model,
            settings=self.settings.mining,
            encoder=self.base,
            cache=self.cache,
            device=training.device,
        )

    def of_fold(
        self, *, settings: RunSettings, dataset: RetrievalDataset, split: Split, folder: RunFolder, work: Path
    ) -> StageContext:
        """Return the context of another fold, with the same models and cached vectors."""
        return replace(
            self,
            settings=settings,
            dataset=dataset,
            split=split,
            folder=folder,
            work=work,
            vectors=self.cache,
            loaded_sparse=self.sparse_vectors,
            kept_tokens={},
        )

    @cached_property
    def sparse_vectors(self) -> StoredSparseVectors | None:
        """Vectors by the sparse encoder of the settings, loaded once; None without one."""
        if self.loaded_sparse is not None:
            return self.loaded_sparse
        name = self.settings.sparse_encoder
        return load_sparse_vectors(name, device=self.settings.training.device) if name else None

    @cached_property
    def tuned(self) -> Encoder:
        """The model that was trained, loaded once."""
        training = self.settings.training
        settings = EncoderSettings(device=training.device, precision=training.precision)
        encoder = Encoder.load(self.folder.model, settings=settings)
        encoder.name = str(RunFolder(self.settings.out).model)  # its final place, for the index's record
        return encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanContext:
    """What the estimates of the stages are computed from.

    Attributes:
        settings: of the run.
        dataset: queries, memories, judgements.
        split: train, dev and test queries.
        sizes: characters of train queries, dev queries and corpus.
        test: characters of the test queries.
        speed: of this machine.
    """

    settings: RunSettings
    dataset: RetrievalDataset
    split: Split
    sizes: TrainingSizes
    test: int
    speed: Speed


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """A row of the plan: its name, what will be done, and the seconds it is expected to take."""

    name: str
    description: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of a run. A new one is a file in this folder with a `STAGE`, and a line in `register.STAGES`.

    Attributes:
        name: as the manifest and the plan name it.
        outputs: files and folders that it writes into the run folder.
        key: digest of all that the result depends on, from the settings, the dataset and the keys of earlier stages.
            Neither the device nor the name of the run folder belongs to it.
        run: writes the outputs.
        estimate: what will be done and how long it takes.
        after: stages whose outputs it reads and that cannot be repeated exactly: it runs again whenever they do.
        used: whether runs with these settings have it; all have it by default.
    """

    name: str
    outputs: Callable[[RunFolder], tuple[Path, ...]]
    key: Callable[[RunSettings, RetrievalDataset, Mapping[str, str]], str]
    run: Callable[[StageContext], None]
    estimate: Callable[[PlanContext], Sequence[StageEstimate]]
    after: tuple[str, ...] = ()
    used: Callable[[RunSettings], bool] = lambda settings: True


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def dataset_content(dataset: RetrievalDataset) -> dict[str, Any]:
    """Return texts, metadata and judgements of a dataset as JSON values."""
    return {
        "memories": {identifier: [memory.text, memory.metadata] for identifier, memory in dataset.memories.items()},
        "queries": {identifier: [query.text, query.metadata] for identifier, query in dataset.queries.items()},
        "judgements": {identifier: dict(grades) for identifier, grades in dataset.judgements.items()},
    }
