"""EmbeddingEvaluator: the original's class over `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.pipeline.evaluate import check_report_output, evaluate
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset


class EmbeddingEvaluator:
    """Compare a tuned model with its base model on the queries of a suite that it has not seen.

    Args:
        test_suite_path: the suite: a path that `read_dataset` takes, or a dataset.
        memories: further memories, so that the corpus is the one searched in production.
        columns: names of the columns of a table, as `read_dataset` takes them.
    """

    def __init__(self, test_suite_path: Data, *, memories: Memories | None = None, columns: str | None = None) -> None:
        self.test_suite_path = test_suite_path
        self.memories = memories
        self.columns = columns
        self.dataset: RetrievalDataset | None = None

    def load_test_suite(self) -> RetrievalDataset:
        """Read the suite."""
        self.dataset = read_dataset(self.test_suite_path, self.memories, columns=self.columns)
        return self.dataset

    def compare_models(
        self,
        finetuned: str | Path,
        *,
        baseline: str | None = None,
        output_path: str | Path | None = None,
        max_queries: int | None = None,
        also: Sequence[str] = (),
        runs: Sequence[Path] = (),
        curve: Sequence[int] = (),
        device: str | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        command: str = "",
        run_files: str | Path | None = None,
        events: PipelineEvents | None = None,
    ) -> dict[str, Any]:
        """Return the report (the original's fields and ours); with `output_path`, write it as JSON and HTML.

        Arguments and errors are those of `evaluate`.

        Args:
            finetuned: folder of the tuned model.
            baseline: model to compare with; by default the recorded base model.
            output_path: a JSON file; the page and the values of every query go beside it.
            max_queries: evaluate on a random sample of N queries.
            also: further untuned models to compare with.
            runs: TREC run files to compare with.
            curve: also train on subsets of N queries of the run's training data, for a learning curve.
            device: torch device.
            precision: of all vectors: float32, bfloat16, or auto for bfloat16 where the device computes in it.
            command: named in the report as the way to reproduce it.
            run_files: a folder for TREC files: a run of each system, and `qrels.txt`.
            events: receives progress.
        """
        if output_path is not None:
            check_report_output(Path(output_path))
        return evaluate(
            self.dataset or self.load_test_suite(),
            finetuned,
            out=output_path,
            run_files=run_files,
            max_queries=max_queries,
            base_model=baseline,
            also=also,
            runs=runs,
            curve=curve,
            device=device,
            precision=precision,
            command=command,
            events=events,
        ).report
