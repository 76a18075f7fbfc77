"""The original's last stage: `python -m llama_index_ace_finetune.finetuned_retrieval` and its class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llama_index_ace_finetune.retrievers.finetuned_retrieval import (
    DEFAULT_MODEL,
    FineTunedRetrieval,
    create_finetuned_retrieval,
)
from llama_index_ace_finetune.stores.qdrant.live_collection import DEFAULT_COLLECTION

__all__ = ["DEFAULT_MODEL", "FineTunedRetrieval", "create_finetuned_retrieval", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with the original's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_index_ace_finetune.finetuned_retrieval", description="Search memories with a tuned model."
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder of the tuned model")
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--limit", type=int, default=10, help="results at most")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest cosine of a dense hit")
    parser.add_argument("--hybrid", action="store_true", help="fuse with BM25")
    parser.add_argument("--qdrant-url", help="server to search instead of the index beside the model")
    parser.add_argument("--collection", default=DEFAULT_COLLECTION, help="collection on that server")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from llama_index_ace_finetune.cli.console import console
    from llama_index_ace_finetune.cli.execute import run_command

    options = build_parser().parse_args(arguments)

    def search() -> None:
        with FineTunedRetrieval(
            options.model, qdrant_url=options.qdrant_url, collection_name=options.collection
        ) as retrieval:
            results = retrieval.search(
                options.query, limit=options.limit, threshold=options.threshold, use_hybrid=options.hybrid
            )
        out = console()
        out.print(f"Found {len(results)} results:", markup=False)
        for rank, result in enumerate(results, start=1):
            out.print(f"{rank}. [Score: {result['score']:.3f}] {result['content'][:100]}", markup=False)
            out.print(
                f"   Category: {result['category']}  Helpful: {result['helpful']}  Harmful: {result['harmful']}  "
                f"Served by: {result['served_by']}",
                markup=False,
            )

    return run_command(search)


if __name__ == "__main__":
    raise SystemExit(main())
