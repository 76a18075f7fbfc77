"""The original's third stage: `python -m llama_index_ace_finetune.evaluate_finetuned` and its class."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from llama_index_ace_finetune.pipeline.embedding_evaluator import EmbeddingEvaluator
from llama_index_ace_finetune.utils.redact import without_passwords

__all__ = ["EmbeddingEvaluator", "main"]

DEFAULT_SUITE = "rag_training/test_suite/enhanced_test_suite.json"
DEFAULT_MODEL = "ace/embedding_finetuning/models/ace_finetuned"
DEFAULT_OUTPUT = "rag_training/optimization_results/v5_finetuned_embeddings.json"
_COMMAND = ("python", "-m", "llama_index_ace_finetune.evaluate_finetuned")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the original's flags and defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_index_ace_finetune.evaluate_finetuned",
        description="Compare a tuned model with its base on held-out queries.",
    )
    parser.add_argument("--test-suite", default=DEFAULT_SUITE, help="test suite, or any dataset this package reads")
    parser.add_argument("--memories", help="further memories: a file, or the folder or address of a Qdrant collection")
    parser.add_argument("--finetuned-model", default=DEFAULT_MODEL, help="folder of the tuned model")
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="JSON file to write; an HTML page goes beside it")
    parser.add_argument("--max-queries", type=int, help="evaluate on a random sample of N queries")
    parser.add_argument("--qdrant-url", help="accepted for compatibility; the corpus is embedded with each model")
    parser.add_argument("--collection", help="accepted for compatibility")
    parser.add_argument("--baseline-url", help="accepted for compatibility; the baseline is the model's own base")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from llama_index_ace_finetune.cli.console import console
    from llama_index_ace_finetune.cli.execute import run_command
    from llama_index_ace_finetune.cli.progress import ConsoleEvents
    from llama_index_ace_finetune.cli.summary import print_summary

    options = build_parser().parse_args(arguments)

    def command() -> None:
        evaluator = EmbeddingEvaluator(options.test_suite, memories=options.memories)
        report = evaluator.compare_models(
            options.finetuned_model,
            output_path=options.output,
            max_queries=options.max_queries,
            events=ConsoleEvents(),
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
