"""The original's third stage: `python -m llama_index_ace_finetune.evaluate_finetuned` and its class."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.evaluation.report.report import write_report
from llama_index_ace_finetune.evaluation.report.run_files import check_run_files, write_run_files
from llama_index_ace_finetune.pipeline.evaluate_model import evaluate_model
from llama_index_ace_finetune.pipeline.summary import print_summary
from llama_index_ace_finetune.utils.atomic import require_regular
from llama_index_ace_finetune.utils.console import console, run_command
from llama_index_ace_finetune.utils.new_folder import require_writable
from llama_index_ace_finetune.utils.redact import without_passwords

__all__ = ["EmbeddingEvaluator", "main"]

DEFAULT_SUITE = "rag_training/test_suite/enhanced_test_suite.json"
DEFAULT_MODEL = "ace/embedding_finetuning/models/ace_finetuned"
DEFAULT_OUTPUT = "rag_training/optimization_results/v5_finetuned_embeddings.json"
_COMMAND = ("python", "-m", "llama_index_ace_finetune.evaluate_finetuned")


class EmbeddingEvaluator:
    """Compare a tuned model with its base on the queries of a suite that it has not seen.

    Args:
        test_suite_path: the suite, or any dataset that `read_dataset` takes.
        memories: further memories, so that the corpus is the one searched in production.
        columns: names of the columns of a table, as `read_dataset` takes them.
    """

    def __init__(
        self, test_suite_path: str | Path, *, memories: str | Path | None = None, columns: str | None = None
    ) -> None:
        self.test_suite_path = Path(test_suite_path)
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
    ) -> dict[str, Any]:
        """Return the report (the original's fields and ours); write it as JSON and HTML where `output_path` says.

        Args:
            finetuned: folder of the tuned model.
            baseline: model to compare with; the recorded base by default.
            output_path: a JSON file; the page and the values of every query go beside it.
            max_queries: test on a random sample of so many.
            also: further untuned models to compare with.
            runs: TREC run files to compare with.
            curve: train on so many queries of the run's training data too, and draw what more data gives.
            device: torch device.
            precision: of all vectors: float32, bfloat16, or auto for bfloat16 where the device computes in it.
            command: what the report names as the way to reproduce it.
            run_files: a folder for TREC files: a run of each system, and `qrels.txt`.
        """
        output = None if output_path is None else _checked_output(Path(output_path))
        dataset = self.dataset or self.load_test_suite()
        if run_files is not None:
            check_run_files(Path(run_files), (*dataset.queries, *dataset.answers))
        result = evaluate_model(
            dataset,
            Path(finetuned),
            base_model=baseline,
            max_queries=max_queries,
            also=also,
            runs=runs,
            curve=curve,
            device=device,
            precision=precision,
            command=command,
        )
        if output is not None:
            write_report(result.report, output, evaluation=result.evaluation)
        if run_files is not None:
            write_run_files(Path(run_files), result.evaluation)
        return result.report


def _checked_output(path: Path) -> Path:
    if path.is_dir():
        raise OutputExistsError(f"The output {str(path)!r} is a directory; give the path of a JSON file.")
    if path.suffix != ".json":
        raise DatasetError(f"The output {str(path)!r} should end in .json; an .html page is written beside it.")
    require_writable(path)
    require_regular(path)
    return path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the original's flags and defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_index_ace_finetune.evaluate_finetuned",
        description="Compare a tuned model with its base on held-out queries.",
    )
    parser.add_argument("--test-suite", default=DEFAULT_SUITE, help="test suite, or any dataset this package reads")
    parser.add_argument("--memories", help="further memories: an inventory file")
    parser.add_argument("--finetuned-model", default=DEFAULT_MODEL, help="folder of the tuned model")
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="JSON file to write; an HTML page goes beside it")
    parser.add_argument("--max-queries", type=int, help="test on a random sample of so many")
    parser.add_argument("--qdrant-url", help="accepted for compatibility; the corpus is embedded with each model")
    parser.add_argument("--collection", help="accepted for compatibility")
    parser.add_argument("--baseline-url", help="accepted for compatibility; the baseline is the model's own base")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        evaluator = EmbeddingEvaluator(options.test_suite, memories=options.memories)
        report = evaluator.compare_models(
            options.finetuned_model,
            output_path=options.output,
            max_queries=options.max_queries,
            command=without_passwords(shlex.join([*_COMMAND, *(arguments or sys.argv[1:])])),
        )
        screen = console()
        screen.print("=== EVALUATION SUMMARY ===")
        for label, name in (("Recall@1", "recall@1"), ("Recall@5", "recall@5"), ("MRR", "mrr")):
            screen.print(f"Baseline {label}: {report['baseline'][name]:.3f}")
            screen.print(f"Fine-tuned {label}: {report['finetuned'][name]:.3f}")
            screen.print(f"Improvement: {report['improvement'][name]:+.1f}%")
        print_summary(report, screen)
        screen.print(f"report  {options.output}", markup=False)

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
