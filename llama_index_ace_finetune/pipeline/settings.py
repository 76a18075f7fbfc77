"""RunSettings: all settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run: its data, and every choice of its stages.

    Attributes:
        data: queries with known answers: a file or folder in any format that `ace-finetune inspect` reads.
        out: run folder.
        memories: memories beyond those of the data: an inventory file.
        columns: names of the columns of a table, such as query=question,text=context.
        num_negatives: hard negatives mined per query.
        min_difficulty: leave out easier training queries: easy, medium or hard.
        skip_categories: leave out training queries of these categories.
        title: of the report; empty for the name of the data.
        split: settings of the split.
        mining: sources of candidates, and filters that reject some.
        training: settings of the training; its output_dir is not used.
        resume: resume an interrupted run with the same data and settings; in a finished run, run the stages whose data
            or settings have changed.
        force: run all stages again, and replace a run that is there.
        command: as typed, for the report.
    """

    data: Path
    out: Path
    memories: Path | None = None
    columns: str | None = None
    num_negatives: int = 5
    min_difficulty: Literal["easy", "medium", "hard"] | None = None
    skip_categories: frozenset[str] = frozenset()
    title: str = ""
    split: SplitSettings = field(default_factory=SplitSettings)
    mining: MiningSettings = field(default_factory=MiningSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resume: bool = False
    force: bool = False
    command: str = ""

    def seeds(self) -> dict[str, int]:
        """Return the random seed of every stage that has one."""
        return {"split": self.split.seed, "mining": self.mining.seed, "training": self.training.seed}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that the result depends on as JSON values, nested as in a configuration file."""
        training = self.training.to_dict()
        del training["output_dir"]
        return {
            "data": str(self.data),
            "out": str(self.out),
            "memories": str(self.memories) if self.memories else None,
            "columns": self.columns,
            "num_negatives": self.num_negatives,
            "min_difficulty": self.min_difficulty,
            "skip_categories": sorted(self.skip_categories),
            "title": self.title,
            "split": dict(vars(self.split)),
            "mining": self.mining.to_dict(),
            "training": training,
        }
