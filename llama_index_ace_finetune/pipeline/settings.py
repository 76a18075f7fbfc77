"""RunSettings: all settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.synthesis.endpoint import DEFAULT_KEY_VARIABLE, endpoint_llm, require_variable_name
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.utils.redact import without_passwords

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run: its data, and every choice of its stages.

    Attributes:
        data: queries with known answers: a file or folder in any format that `ace-finetune inspect` reads, or, in
            Python, a dataset. None if there are only memories, for which `synthesize` writes queries.
        out: run folder.
        memories: memories beyond those of the data: a file, the folder of a persisted LlamaIndex index, or the folder
            or address of a Qdrant collection; in Python also memories or nodes.
        columns: names of the columns of a table, such as query=question,text=context.
        synthesize: write N synthetic queries for memories of no dev or test query, as further training examples; dev
            decides whether they are used. Without queries of users, all parts of the split are synthetic. 0 writes
            none.
        llm_url: OpenAI-compatible endpoint of the language model that writes them; without one they are made of the
            memories' own words.
        llm_model: name of the model there.
        llm_key_env: environment variable that holds its API key.
        llm: in Python, any LlamaIndex language model instead.
        num_negatives: hard negatives mined per query.
        min_difficulty: leave out easier training queries: easy, medium or hard.
        skip_categories: leave out training queries of these categories.
        title: of the report; empty for the name of the data.
        folds: test every query once, in K folds: K trainings share the budget, and each is tested on queries that it
            has not seen. For few queries. The first fold is the split of a run without folds; 0 tests that only.
        split: settings of the split.
        mining: sources of candidates, and filters that reject some.
        query_ms: milliseconds per query, encoding included, that the served system may take.
        bytes_per_memory: bytes per memory that the served system may store.
        sparse_encoder: folder or hub name of a sparse encoder (SPLADE), to compare systems with it too.
        training: settings of the training; its output_dir is not used.
        resume: resume an interrupted run with the same data and settings; in a finished run, run the stages whose data
            or settings have changed.
        force: run all stages again, and replace a run that is there.
        command: as typed, for the report.
    """

    data: Path | RetrievalDataset | None
    out: Path
    memories: str | Path | Sequence[Any] | None = None
    columns: str | None = None
    synthesize: int = 0
    llm_url: str | None = None
    llm_model: str | None = None
    llm_key_env: str = DEFAULT_KEY_VARIABLE
    llm: Any = None
    num_negatives: int = 5
    min_difficulty: Literal["easy", "medium", "hard"] | None = None
    skip_categories: frozenset[str] = frozenset()
    query_ms: float | None = None
    bytes_per_memory: float | None = None
    sparse_encoder: str | None = None
    title: str = ""
    folds: int = 0
    split: SplitSettings = field(default_factory=SplitSettings)
    mining: MiningSettings = field(default_factory=MiningSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resume: bool = False
    force: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        """Raise AceFinetuneError for a limit that is not above 0, or settings that contradict each other."""
        self.limits()
        require_variable_name(self.llm_key_env)
        if self.folds < 0 or self.folds == 1:
            raise AceFinetuneError(f"folds is {self.folds}; it must be 2 or more, or 0 to test the split only.")
        if self.synthesize < 0:
            raise AceFinetuneError(f"synthesize is {self.synthesize}; it must be 0 or more.")
        if not self.synthesize and (self.llm is not None or self.llm_url or self.llm_model):
            raise AceFinetuneError("A language model is given, but no number of queries to write; set synthesize.")
        if self.data is None and not (self.synthesize and self.memories is not None):
            raise AceFinetuneError(
                "A run needs data with queries; or memories, and the number of queries to synthesize for them."
            )

    def of_a_fold(self) -> RunSettings:
        """Return the settings of the training in each fold: with its part of the budget; without folds, of the run."""
        budget = self.training.budget_minutes
        if not self.folds or budget is None:
            return self
        return replace(self, training=replace(self.training, budget_minutes=budget / self.folds))

    def limits(self) -> ServingLimits:
        """Return the limits of the served system."""
        return ServingLimits(query_ms=self.query_ms, bytes_per_memory=self.bytes_per_memory)

    def language_model(self) -> LLM | None:
        """Return the language model that writes synthetic queries; None if they are made of the memories' own words.

        Raises:
            AceFinetuneError: if only one of `llm_url` and `llm_model` is given, or the extra llm is not installed.
        """
        if self.llm is not None:
            found: LLM = self.llm
            return found
        return endpoint_llm(self.llm_url, self.llm_model, key_variable=self.llm_key_env)

    def read(self) -> RetrievalDataset:
        """Read the data and the memories; see `read_dataset`."""
        if self.data is None:
            return read_dataset(self.memories, columns=self.columns)
        return read_dataset(self.data, self.memories, columns=self.columns)

    def seeds(self) -> dict[str, int]:
        """Return the random seed of every stage that has one."""
        return {"split": self.split.seed, "mining": self.mining.seed, "training": self.training.seed}

    @property
    def data_name(self) -> str:
        """The path of the data, or of the memories if there are no data; the name of a dataset that is not a file."""
        if self.data is None:
            return without_passwords(str(self.memories)) if isinstance(self.memories, (str, Path)) else "memories"
        return self.data.name if isinstance(self.data, RetrievalDataset) else str(self.data)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that are read."""
        return tuple(Path(path) for path in (self.data, self.memories) if isinstance(path, (str, Path)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that the result depends on as JSON values, nested as in a configuration file."""
        training = self.training.to_dict()
        del training["output_dir"]
        return {
            "data": str(self.data) if isinstance(self.data, Path) else None,
            "out": str(self.out),
            "memories": without_passwords(str(self.memories)) if isinstance(self.memories, (str, Path)) else None,
            "columns": self.columns,
            "synthesize": self.synthesize,
            "llm_url": self.llm_url and without_passwords(self.llm_url),
            "llm_model": self.llm_model,
            "llm_key_env": self.llm_key_env,
            "num_negatives": self.num_negatives,
            "min_difficulty": self.min_difficulty,
            "skip_categories": sorted(self.skip_categories),
            "query_ms": self.query_ms,
            "bytes_per_memory": self.bytes_per_memory,
            "sparse_encoder": self.sparse_encoder,
            "title": self.title,
            "folds": self.folds,
            "split": dict(vars(self.split)),
            "mining": self.mining.to_dict(),
            "training": training,
        }
