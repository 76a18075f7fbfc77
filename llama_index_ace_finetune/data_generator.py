"""The original's first stage: `python -m llama_index_ace_finetune.data_generator` and its classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llama_index_ace_finetune.datasets.training_data import TrainingExample
from llama_index_ace_finetune.datasets.types import DIFFICULTIES
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
from llama_index_ace_finetune.stores.qdrant.live_collection import DEFAULT_COLLECTION

__all__ = ["HardNegativeMiner", "TrainingDataGenerator", "TrainingExample", "main"]

DEFAULT_SUITE = "rag_training/test_suite/enhanced_test_suite.json"
DEFAULT_OUTPUT = "ace/embedding_finetuning/training_data.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the original's flags and defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_index_ace_finetune.data_generator",
        description="Write training data with hard negatives from a test suite.",
    )
    parser.add_argument("--test-suite", default=DEFAULT_SUITE, help="test suite, or any dataset this package reads")
    parser.add_argument("--memories", help="further memories: a file, or the folder or address of a Qdrant collection")
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="file to write")
    parser.add_argument("--negatives", type=int, default=5, help="hard negatives per example (default 5)")
    parser.add_argument("--min-difficulty", choices=DIFFICULTIES, help="leave out easier queries")
    parser.add_argument("--skip-categories", nargs="+", default=[], help="leave out queries of these categories")
    parser.add_argument("--max-examples", type=int, help="at most N examples")
    parser.add_argument("--qdrant-url", help="mine from a collection on this server as well")
    parser.add_argument("--collection", default=DEFAULT_COLLECTION, help="Qdrant collection to mine from")
    parser.add_argument("--embedding-url", help="OpenAI-compatible endpoint that embeds queries for it")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from llama_index_ace_finetune.cli.execute import run_command
    from llama_index_ace_finetune.cli.generate import print_generated
    from llama_index_ace_finetune.cli.progress import ConsoleEvents
    from llama_index_ace_finetune.pipeline.generate import generate

    options = build_parser().parse_args(arguments)

    def command() -> None:
        result = generate(
            options.test_suite,
            options.output,
            memories=options.memories,
            num_negatives=options.negatives,
            min_difficulty=options.min_difficulty,
            skip_categories=options.skip_categories,
            max_examples=options.max_examples,
            qdrant_url=options.qdrant_url,
            collection=options.collection,
            embedding_url=options.embedding_url,
            events=ConsoleEvents(),
        )
        print_generated(result)

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
